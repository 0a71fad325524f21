"""What stands between the network and Gradio: who may ask, and for what.

Only requests to this server's own address are answered (`Host`), only from its own pages (`Origin`), only from a
browser that came by the link with the key, and only for the routes that the page needs. A session reads its own files
and no others, by whatever path it names them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from binderclip.documents import parse_json
from binderclip.errors import BinderclipError
from binderclip.workbench.answers import AnswerStreams, Application, Receive, Send
from binderclip.workbench.jobs import JobQueue
from binderclip.workbench.sessions import Sessions, remove
from binderclip.workbench.tags.store import TagStore, answer_tags
from binderclip.workbench.uploads import UploadTooLarge, receive_upload

API = "/gradio_api"
FREE = ("/static/", "/assets/", "/svelte/", "/favicon.ico", "/manifest.json", "/robots.txt", "/pwa_icon")
"""What holds nothing of anybody: Gradio's own scripts and styles."""
READ = frozenset({"/", "/config", "/theme.css", f"{API}/theme.css", f"{API}/app_id", f"{API}/startup-events"})
FILE, HEARTBEAT, PROGRESS = f"{API}/file=", f"{API}/heartbeat/", f"{API}/upload_progress"
UPLOAD, JOIN, ANSWERS = f"{API}/upload", f"{API}/queue/join", f"{API}/queue/data"
WRITE = frozenset({UPLOAD, JOIN, f"{API}/cancel", f"{API}/reset"})
TAGS = "/tags"
MOST_BODY = 8 * 2**20
"""Bytes of a request that is no upload."""
GRACE = 5.0
"""Seconds that a page may be away before it counts as closed: browsers lose a connection and make another."""
ENDS = 30.0
"""Seconds that the runs of a closed page have to end before its folder goes."""
SESSION_HEADER = "x-workbench-session"
"""What tells a handler whose request it has; one that comes from outside is dropped."""

PROMISES = {
    # The browser itself holds the page to asking nobody else, and lets no other page put it in a frame.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_PROMISED = [(name.encode(), value.encode()) for name, value in PROMISES.items()]
_PAGE = b"<gradio-app"
"""What the opening of the page stands before."""
_DONE = b'data: {"msg": "done"}\n\n'


class Guard:
    """An ASGI application around Gradio's.

    Args:
        inside: what is guarded.
        sessions: of the server. queues: of runs and clicks, which are stopped when their page is closed.
        port: where the server listens; the names it goes by are 127.0.0.1 and localhost.
        key: the secret in the link that the command printed.
        tags: of pictures, which pages read and change.
        opening: makes what the page shows before its scripts have run, as HTML.
    """

    def __init__(
        self,
        inside: Application,
        *,
        sessions: Sessions,
        queues: Sequence[JobQueue],
        port: int,
        key: str,
        tags: TagStore,
        opening: Callable[[], str],
    ) -> None:
        self.inside, self.sessions, self.queues, self.key, self.tags = inside, sessions, tuple(queues), key, tags
        self.opening = opening
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.origins = {f"http://{host}" for host in self.hosts}
        # Cookies know no ports: two servers on one machine need two names.
        self.cookie = f"binderclip-{port}"
        self._pages: dict[str, str] = {}
        self._open: Counter[str] = Counter()
        self._leaving: set[asyncio.Task[None]] = set()
        self._answers = AnswerStreams(inside)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inside(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _promising(send)
        headers: dict[str, str] = {}
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1")
            if name in headers and name in ("host", "origin", "cookie"):
                await _answer(send, 400, f"two {name} headers")
                return
            headers[name] = value.decode("latin-1")
        refused = self._foreign(headers)
        if refused:
            await _answer(send, 403, refused)
            return
        # Links and `..` are resolved later; here a path must be written as the page writes it.
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD") and path.startswith(FREE) and ".." not in path:
            await self.inside(scope, receive, send)
            return
        session = self._session(headers)
        if session is None:
            await self._welcome(scope, send)
            return
        await self._serve(scope, receive, send, method, path, session)

    def _foreign(self, headers: dict[str, str]) -> str:
        """Why a request is not from this server's own pages; empty where it is."""
        if headers.get("host", "").lower() not in self.hosts:
            return "this server answers to 127.0.0.1 and localhost alone"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in self.origins:
            return "a page of another origin may not use the workbench"
        return ""

    def _session(self, headers: dict[str, str]) -> str | None:
        # By hand: the standard library's parser gives all up at a cookie of another program that it does not like.
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        return next((value for name, _, value in pairs if name == self.cookie and value in self.sessions), None)

    async def _welcome(self, scope: dict[str, Any], send: Send) -> None:
        """A browser without a session: with the key it gets one."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("key", [""])[0]
        if scope["path"] != "/" or not hmac.compare_digest(given.encode(), self.key.encode()):
            await _answer(send, 403, "open the whole address that `binderclip workbench` printed, with its key")
            return
        cookie = f"{self.cookie}={self.sessions.new()}; HttpOnly; SameSite=Lax; Path=/"
        await _answer(send, 303, "", [("location", "/"), ("set-cookie", cookie)])

    async def _serve(
        self, scope: dict[str, Any], receive: Receive, send: Send, method: str, path: str, session: str
    ) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != SESSION_HEADER.encode()]
        scope = {**scope, "headers": [*headers, (SESSION_HEADER.encode(), session.encode())]}
        if method in ("GET", "HEAD"):
            pages = _query_pages(scope)
            if path == "/" and b"key=" in scope.get("query_string", b""):
                await _answer(send, 303, "", [("location", "/")])
            elif path.startswith(FILE):
                await self._file(scope, receive, send, path.removeprefix(FILE), session)
            elif path.startswith(HEARTBEAT):
                await self._heartbeat(scope, receive, send, path.removeprefix(HEARTBEAT), session)
            elif path == PROGRESS:
                # The upload is one request; nothing is told of it before it is over.
                await _answer(send, 200, _DONE, [("content-type", "text/event-stream")])
            elif path == TAGS:
                await self._tags(send, None)
            elif path == "/" and not pages:
                opening = await asyncio.to_thread(self.opening)
                await _with_opening(opening.encode(), self.inside, scope, receive, send)
            elif path in READ and all(self._own_page(page, session) for page in pages):
                await self.inside(scope, receive, send)
            elif path == ANSWERS and pages and all(self._own_page(page, session) for page in pages):
                await self._answers.serve(scope, receive, send, pages[0])
            else:
                await _answer(send, 404, "there is nothing here")
        elif method == "POST" and path == TAGS:
            body = await _body(receive, send)
            if body is not None:
                await self._tags(send, body)
        elif method == "POST" and path in WRITE:
            await self._write(scope, receive, send, path, session)
        else:
            await _answer(send, 404, "there is nothing here")

    async def _file(self, scope: dict[str, Any], receive: Receive, send: Send, path: str, session: str) -> None:
        if not self.sessions.owns(session, path):
            await _answer(send, 403, "this file is not one of yours")
            return
        await self.inside(scope, receive, send)

    async def _heartbeat(self, scope: dict[str, Any], receive: Receive, send: Send, page: str, session: str) -> None:
        """Open as long as the page is: its end is the page's."""
        if not self._own_page(page, session):
            await _answer(send, 403, "this page is another's")
            return
        self.sessions.opened(session, page)
        self._open[page] += 1
        try:
            await self.inside(scope, receive, send)
        finally:
            self._open[page] -= 1
            leaving = asyncio.get_running_loop().create_task(self._left(page, session))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _left(self, page: str, session: str) -> None:
        await asyncio.sleep(GRACE)
        if self._open[page] > 0:
            return
        end = asyncio.get_running_loop().time() + ENDS
        # A run that is at its end still writes: what it wrote after its folder went would stay. Gradio may hand over
        # meanwhile what it had in line.
        while asyncio.get_running_loop().time() < end:
            for queue in self.queues:
                queue.stop_all(session=session, page=page)
            if not any(queue.busy(session, page) for queue in self.queues):
                break
            await asyncio.sleep(0.05)
            if self._open[page] > 0:
                return
        # From here to the lock inside nothing else is served: a page that comes back finds either all or nothing.
        rubbish = self.sessions.closed(session, page)
        self._pages.pop(page, None)
        self._open.pop(page, None)
        await asyncio.to_thread(remove, rubbish)

    def _own_page(self, page: str, session: str) -> bool:
        """A page belongs to the session that named it first."""
        return self._pages.setdefault(page, session) == session

    async def _write(self, scope: dict[str, Any], receive: Receive, send: Send, path: str, session: str) -> None:
        if path == UPLOAD:
            try:
                paths = await receive_upload(scope, receive, self.sessions, session)
            except BinderclipError as error:
                await _answer(send, 413 if isinstance(error, UploadTooLarge) else 400, str(error))
                return
            await _answer(send, 200, json.dumps(paths).encode(), [("content-type", "application/json")])
            return
        body = await _body(receive, send)
        if body is None:
            return
        try:
            document = parse_json(body)
            page = document.get("session_hash") if isinstance(document, dict) else None
            bad = next((named for named in _files_named(document) if not self._may_name(named, session)), None)
        except (ValueError, RecursionError):
            await _answer(send, 400, "the request is no JSON")
            return
        if bad is not None or not isinstance(page, str) or not self._own_page(page, session):
            await _answer(send, 403, "this file is not one of yours" if bad is not None else "this page is another's")
            return
        sent = False

        async def again() -> dict[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        if path == JOIN:
            await self._answers.free(page)
        await self.inside(scope, again, send)

    async def _tags(self, send: Send, body: bytes | None) -> None:
        answer = await asyncio.to_thread(answer_tags, self.tags, body)
        await _answer(send, 200, json.dumps(answer).encode(), [("content-type", "application/json")])

    def _may_name(self, named: tuple[str, Any], session: str) -> bool:
        kind, value = named
        if value is None or value == "":
            return True
        if not isinstance(value, str):
            return False
        if kind == "url":
            address = urlsplit(value)
            if address.scheme or address.netloc:
                if f"{address.scheme}://{address.netloc}".lower() not in self.origins:
                    return False
                value = address.path
            if not value.startswith(FILE):
                return False
            value = unquote(value.removeprefix(FILE))
        return self.sessions.owns(session, value)


async def _body(receive: Receive, send: Send) -> bytes | None:
    """The body of a request; None where it is given up or, which is answered, too long."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            await _answer(send, 413, f"a request of more than {MOST_BODY >> 20} MB")
            return None
        if not message.get("more_body"):
            return body


def _files_named(document: Any) -> Iterator[tuple[str, Any]]:
    """("path" or "url", value) of everything in a request that names a file."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("path", "url"):
                yield key, value
            else:
                yield from _files_named(value)
    elif isinstance(document, list):
        for value in document:
            yield from _files_named(value)


def _query_pages(scope: dict[str, Any]) -> list[str]:
    """Every page that the address names: which of several Gradio would take is not for the guard to guess."""
    fields = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return [value for name, value in fields if name == "session_hash"]


def _promising(send: Send) -> Send:
    """What sends, with the headers that every answer has."""

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [pair for pair in message.get("headers", []) if pair[0].lower().decode("latin-1") not in PROMISES]
            message = {**message, "headers": [*own, *_PROMISED]}
        await send(message)

    return sending


async def _with_opening(
    opening: bytes, inside: Application, scope: dict[str, Any], receive: Receive, send: Send
) -> None:
    """Answer as `inside`, with the opening in the page.

    Args:
        opening: HTML in UTF-8.
        inside, scope, receive, send: as of an ASGI application.
    """
    # Compressed, there would be no place to put it.
    plain = [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"]
    start: dict[str, Any] = {}
    body = b""

    async def sending(message: dict[str, Any]) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        whole = body.replace(_PAGE, opening + _PAGE, 1) if start["status"] == 200 else body
        kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        # The answer to HEAD has no body, and need not say how long it would be.
        length = [(b"content-length", str(len(whole)).encode())] if scope["method"] == "GET" else []
        await send({**start, "headers": [*kept, *length]})
        await send({"type": "http.response.body", "body": whole})

    await inside({**scope, "headers": plain}, receive, sending)


async def _answer(send: Send, status: int, message: str | bytes, headers: list[tuple[str, str]] | None = None) -> None:
    body = message.encode() if isinstance(message, str) else message
    sent = dict(headers or [])
    sent.setdefault("content-type", "text/plain; charset=utf-8")
    sent |= {"content-length": str(len(body)), "cache-control": "no-store"}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
