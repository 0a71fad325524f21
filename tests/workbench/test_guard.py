"""The server over raw HTTP: who gets an answer, and which files can be read. No browser is in the way."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from binderclip.workbench import guard, sessions, uploads

LONG = 120.0


def eventually(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come about")


# -- who ---------------------------------------------------------------------------------------------------------------


def test_it_listens_on_this_machine_alone(server: Any) -> None:
    assert server._socket.getsockname()[0] == "127.0.0.1"
    outside = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in outside - {"127.0.0.1"}:
        if not str(address).startswith("127."):
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((address, server.port)) != 0


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}", "[::1]:{port}",
     "localhost.evil:{port}", "0.0.0.0:{port}", ""],
)  # fmt: skip
def test_foreign_hosts_are_refused(client: Any, host: str) -> None:
    for path in ("/", "/config", "/assets/x.js", f"/?key={client.key}"):
        assert client.ask("GET", path, host=host.format(port=client.port)).status in (400, 403), path


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "null",
                                    "http://127.0.0.1.evil:{port}", "http://localhost"])  # fmt: skip
def test_foreign_origins_are_refused(client: Any, png: bytes, origin: str) -> None:
    origin = origin.format(port=client.port)
    join = {"data": [], "fn_index": 0, "session_hash": client.page}
    assert client.ask("GET", "/config", origin=origin).status == 403
    assert client.post("/gradio_api/queue/join", join, origin=origin).status == 403
    assert client.upload(("a.png", png), origin=origin).status == 403
    # Nor is the answer to a question in advance a leave to ask.
    got = client.ask("OPTIONS", "/gradio_api/queue/join", origin=origin, access_control_request_method="POST")
    assert got.status == 403
    assert "access-control-allow-origin" not in got.headers


def test_its_own_pages_are_answered_by_both_names(client: Any) -> None:
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{client.port}"
        assert client.ask("GET", "/config", host=host, origin=f"http://{host}").status == 200


def test_without_the_key_there_is_no_page(stranger: Any, png: bytes) -> None:
    for path in ("/", "/config", "/?key=", "/?key=wrong", "/gradio_api/queue/data?session_hash=x", "/gradio_api/info"):
        got = stranger.ask("GET", path)
        assert got.status == 403, path
        assert "set-cookie" not in got.headers
    assert stranger.upload(("a.png", png)).status == 403
    assert stranger.post("/gradio_api/queue/join", {"data": [], "session_hash": "x"}).status == 403
    stranger.cookie = f"binderclip-{stranger.port}=guessed"
    assert stranger.ask("GET", "/config").status == 403


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(server: Any, stranger: Any) -> None:
    stranger.key = server.key
    cookie = stranger.ask("GET", f"/?key={server.key}").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert server.key not in cookie


@pytest.mark.parametrize("other", ["a b=c d", "broken", "=", 'x={"a": 1, "b": 2}', "k[0]=v", "a=\xe9", ";;", "path=/"])
def test_cookies_of_other_programs_are_not_looked_at(client: Any, other: str) -> None:
    own = client.cookie
    for both in (f"{other}; {own}", f"{own}; {other}", f"{own};{other}", f"{client.cookie.partition('=')[0]}=x; {own}"):
        client.cookie = both
        assert client.ask("GET", "/config").status == 200, both
    client.cookie = f"x{own}; {other}"
    assert client.ask("GET", "/config").status == 403


def test_every_answer_holds_the_browser_to_this_server_and_out_of_frames(
    client: Any, stranger: Any, png: bytes
) -> None:
    answers = [client.ask("GET", path) for path in ("/", "/config", "/theme.css", "/nowhere", "/favicon.ico")]
    answers += [client.upload(("a.png", png)), stranger.ask("GET", "/"), client.ask("GET", "/", host="evil.example")]
    for got in answers:
        policy = dict(part.strip().split(" ", 1) for part in got.headers["content-security-policy"].split(";"))
        assert policy["frame-ancestors"] == "'none'"
        # No source but the page's own origin and what the page holds itself.
        assert set(policy["default-src"].split()) == {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
        assert got.headers["x-frame-options"] == "DENY"
        assert got.headers["x-content-type-options"] == "nosniff"


def test_two_headers_of_one_name_are_refused(client: Any) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=LONG) as raw:
        own = f"127.0.0.1:{client.port}"
        raw.sendall(
            f"GET /config HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\nOrigin: http://evil\r\n"
            f"Cookie: {client.cookie}\r\nConnection: close\r\n\r\n".encode()
        )
        assert b" 400 " in raw.makefile("rb").readline()


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=http://example.com/", "/monitoring", "/gradio_api/deep_link", "/docs", "/openapi.json",
     "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/file/etc/passwd", "/gradio_api/openapi.json", "/login",
     "/gradio_api/custom_component/a/b/c/d", "/gradio_api/runs", "/gradio_api/token", "/static/../config"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(client: Any, path: str) -> None:
    assert client.ask("GET", path).status in (403, 404)


@pytest.mark.parametrize("path", ["run/predict", "call/predict", "component_server", "vibe-edit", "stream/x", "login"])
def test_nothing_else_can_be_posted(client: Any, path: str) -> None:
    assert client.post(f"/gradio_api/{path}", {"data": [], "session_hash": client.page}).status == 404


# -- files -------------------------------------------------------------------------------------------------------------


def uploaded(client: Any, png: bytes, name: str = "cat.png") -> str:
    got = client.upload((name, png))
    assert got.status == 200, got.text
    return json.loads(got.body)[0]


def fetch(client: Any, path: str) -> Any:
    return client.ask("GET", f"/gradio_api/file={quote(path)}")


def test_a_session_reads_back_what_it_uploaded(client: Any, png: bytes) -> None:
    path = uploaded(client, png)
    assert fetch(client, path).body == png


def test_nobody_reads_what_another_uploaded(server: Any, client: Any, png: bytes) -> None:
    path = uploaded(client, png)
    other = type(client)(server.port, server.key).sign_in()
    got = fetch(other, path)
    assert got.status == 403
    assert got.body != png
    # Nor by going there from one's own folder.
    own = Path(uploaded(other, png))
    assert fetch(other, f"{own.parent}/../../../{Path(path).relative_to(server.sessions.root)}").status == 403


def test_paths_outside_the_folder_are_refused(client: Any, png: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret" + png)
    folder = Path(uploaded(client, png)).parent
    up = "../" * 12
    paths = ["/etc/passwd", "etc/passwd", f"{up}etc/passwd", f"{folder}/{up}etc/passwd", f"{folder}/{up}{secret}",
             str(secret), f"file://{secret}", f"//{secret}", f"{folder}/%2e%2e/%2e%2e/x", "/proc/self/environ",
             "/dev/zero", str(folder), str(Path(__file__)), "pyproject.toml", "~/.bashrc", ""]  # fmt: skip
    for path in paths:
        for written in (quote(path), path.replace(" ", "%20"), quote(quote(path)), quote(path, safe="")):
            got = client.ask("GET", f"/gradio_api/file={written}")
            assert got.status in (400, 403, 404), written
            assert b"secret" not in got.body
            assert b"root:" not in got.body


def test_links_out_of_the_folder_are_refused(client: Any, png: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    folder = Path(uploaded(client, png)).parent
    (folder / "file.png").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "root").symlink_to("/")
    for path in ("file.png", "folder/secret.png", "root/etc/passwd"):
        got = fetch(client, f"{folder}/{path}")
        assert got.status == 403, path
        assert b"secret" not in got.body


def test_addresses_elsewhere_are_not_fetched(client: Any) -> None:
    for address in ("http://127.0.0.1:9/x.png", "https://example.com/x.png", "ftp://example.com/x"):
        assert fetch(client, address).status == 403


@pytest.mark.parametrize("key", ["path", "url"])
def test_a_run_takes_no_file_that_is_not_its_session_s(server: Any, client: Any, png: bytes, key: str) -> None:
    other = type(client)(server.port, server.key).sign_in()
    theirs = uploaded(other, png)
    for path in ("/etc/passwd", theirs, "http://127.0.0.1:9/x.png", f"{Path(theirs).parent}/../x", 7, ["/etc/passwd"]):
        file = {"path": None, "meta": {"_type": "gradio.FileData"}, key: path}
        for data in ([file], [[file]], [{"deep": [{"er": file}]}]):
            body = {"data": data, "fn_index": 0, "session_hash": client.page}
            got = client.post("/gradio_api/queue/join", body)
            assert got.status == 403, (path, got.text)
            assert "not one of yours" in got.text


def test_a_page_of_another_session_cannot_be_spoken_for(server: Any, client: Any) -> None:
    client.open_page()
    other = type(client)(server.port, server.key).sign_in()
    assert other.ask("GET", f"/gradio_api/queue/data?session_hash={client.page}").status == 404
    # Nor by naming one's own page as well, in front of it or behind.
    for pages in ((other.page, client.page), (client.page, other.page), ("", client.page), (client.page, "")):
        query = "&".join(f"session_hash={page}" for page in pages)
        assert other.ask("GET", f"/gradio_api/queue/data?{query}").status == 404, pages
    assert other.ask("GET", f"/gradio_api/heartbeat/{client.page}").status == 403
    join = {"data": [], "fn_index": 0, "session_hash": client.page}
    assert other.post("/gradio_api/queue/join", join).status == 403
    assert other.post("/gradio_api/cancel", {"session_hash": client.page, "fn_index": 0, "event_id": "x"}).status == 403


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b'{"session_hash": 7}', b"null"])
def test_a_damaged_request_is_an_error_and_no_more(client: Any, body: bytes) -> None:
    got = client.ask("POST", "/gradio_api/queue/join", body, content_type="application/json")
    assert got.status in (400, 403)
    assert client.ask("GET", "/config").status == 200


def test_a_request_of_many_megabytes_is_cut_off(client: Any) -> None:
    got = client.ask("POST", "/gradio_api/queue/join", b'"' + b"x" * (9 * 2**20) + b'"')
    assert got.status == 413


@pytest.mark.parametrize(("button", "inputs"), [("Classify", ("labels",)), ("Segment", ("labels",)),
                                               ("Segment", ("labels", "what"))])  # fmt: skip
def test_no_text_on_a_page_reads_a_file_of_this_machine(
    client: Any, png: bytes, tmp_path: Path, button: str, inputs: tuple[str, ...]
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret word\nother secret\n")
    files = [{"path": uploaded(client, png), "meta": {"_type": "gradio.FileData"}}]
    # The last of the inputs names the file; those before it are as they should be.
    texts = {**dict.fromkeys(inputs, "cat"), inputs[-1]: f" @{secret}"}
    said = client.run(button, pictures=files, **texts)
    assert "no file is read here" in said
    assert "secret word" not in said


def test_no_setting_of_a_recipe_reads_a_folder_of_this_machine(client: Any, tmp_path: Path) -> None:
    for named in (str(tmp_path), f"pipe:touch {tmp_path}/made #.tar"):
        for setting in (f"stage.data=[{named!r}]", f"model={named!r}"):
            assert "was not opened on" in client.run("Train", other=setting), setting
    (tmp_path / "mine.toml").write_text("")
    assert "is not in the list of choices" in client.run("Train", recipe=str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").unlink()
    assert list(tmp_path.iterdir()) == []


# -- uploads -----------------------------------------------------------------------------------------------------------


def stored(server: Any) -> set[Path]:
    """Every file of every session; those of pages that were closed may go at any moment."""
    return {Path(folder) / name for folder, _, files in os.walk(server.sessions.root) for name in files}


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", b"GIF89a",
     b"\x89PNG\r\n", b"%PDF-1.4", b"<html><script>alert(1)</script>"],
)  # fmt: skip
def test_what_is_no_picture_is_not_kept(server: Any, client: Any, png: bytes, content: bytes) -> None:
    before = stored(server)
    got = client.upload(("cat.png", content))
    assert got.status == 400
    assert got.text.startswith("cat.png is not a picture")
    assert stored(server) <= before
    # Among others it costs itself: the page gets a path for each file, and that of an empty one stands for it.
    got = client.upload(("fine.png", png), ("cat.png", content))
    assert got.status == 200
    fine, none = json.loads(got.body)
    assert fetch(client, fine).body == png
    assert uploads.refusal(Path(fine)) is None
    assert Path(none).name == "cat.png"
    assert Path(none).read_bytes() == b""
    assert str(uploads.refusal(Path(none))).startswith("cat.png is not a picture")


def test_the_last_part_of_an_upload_may_be_one_that_is_no_picture(client: Any, png: bytes) -> None:
    """The page sends more than a thousand files in parts, and gives all of them up for one that is refused."""
    parts = [("a.png", png), ("cat.png", b"none")]
    assert [client.upload(part, upload="one").status for part in parts] == [200, 200]
    assert client.upload(parts[1], upload="another").status == 400


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "SGI", "ICNS"])
def test_what_pillow_knows_but_is_not_opened_is_not_kept(server: Any, client: Any, kind: str) -> None:
    """An EPS would be handed to Ghostscript, which runs it."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, kind)
    before = stored(server)
    for name in ("cat.eps", "cat.png"):
        got = client.upload((name, out.getvalue()))
        assert got.status == 400
        assert got.text.startswith(f"{name} is not a picture")
    assert stored(server) <= before


def test_a_picture_cut_short_is_kept_for_the_run_to_name(client: Any, png: bytes) -> None:
    assert client.upload(("cut.png", png[:-20])).status == 200


def test_five_hundred_pictures_at_once(client: Any, png: bytes) -> None:
    got = client.upload(*[(f"{n}.png", png) for n in range(500)])
    assert got.status == 200
    paths = json.loads(got.body)
    assert len(set(paths)) == 500
    assert [Path(path).name for path in paths] == [f"{n}.png" for n in range(500)]
    assert fetch(client, paths[499]).body == png


def test_names_in_an_upload_lead_nowhere(server: Any, client: Any, png: bytes) -> None:
    for name in ("../../../evil.png", "/etc/evil.png", "..\\\\evil.png", "....//evil.png"):
        path = Path(uploaded(client, png, name))
        assert path.name == "evil.png"
        assert server.sessions.root in path.parents


def test_a_picture_of_twelve_thousand_pixels_is_taken_and_a_bomb_is_not(client: Any) -> None:
    def wide(side: int) -> bytes:
        out = io.BytesIO()
        Image.new("1", (side, side)).save(out, "PNG")
        return out.getvalue()

    assert client.upload(("large.png", wide(12_000))).status == 200
    got = client.upload(("bomb.png", wide(20_000)))
    assert got.status == 413
    assert got.text == "bomb.png has 400 million pixels: at most 178 million are opened"


def test_sizes_and_numbers_are_limited(server: Any, client: Any, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored(server)
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    got = client.upload(*[(f"{n}.png", png) for n in range(4)])
    assert got.status == 413
    assert "more than 3 pictures" in got.text
    monkeypatch.setattr(uploads, "MOST_BYTES", len(png) - 1)
    assert client.upload(("a.png", png)).status == 413
    assert client.upload(("a.png", png), ("small.gif", b"GIF89a")).status == 413
    monkeypatch.setattr(uploads, "MOST_AT_ONCE", 100)
    assert client.upload(("a.png", png)).status == 413
    assert stored(server) <= before


def test_an_upload_that_is_refused_leaves_nothing_and_counts_nothing(
    server: Any, client: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> int:
        return sum(len(found) for _, found, _ in os.walk(server.sessions.root))

    assert client.upload(("first.png", png)).status == 200
    name = client.cookie.partition("=")[2]
    before, counted = folders(), server.sessions._known[name].stored
    assert counted == len(png)
    assert client.upload(("cat.png", b"none"), ("dog.png", b"none")).status == 400
    monkeypatch.setattr(sessions, "MOST_STORED", 2 * len(png))
    got = client.upload(("a.png", png), ("b.png", png))
    assert got.status == 400
    assert "load the page again" in got.text
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads.shutil, "copyfileobj", full)
    got = client.upload(("a.png", png))
    assert (got.status, got.text) == (400, "the pictures cannot be kept: No space left on device")
    monkeypatch.undo()
    assert (folders(), server.sessions._known[name].stored) == (before, counted)


@pytest.mark.parametrize("name", ["日" * 100 + ".png", "x" * 300 + ".png", "a." + "ü" * 300])
def test_names_of_any_length_are_taken(client: Any, png: bytes, name: str) -> None:
    assert fetch(client, uploaded(client, png, name)).body == png


def test_names_that_come_again_get_a_number(client: Any, png: bytes) -> None:
    """As in a folder whose sub-folders count alike; no name becomes `01-png.png`."""
    got = client.upload(*[(name, png) for name in ("01.png", "01.png", "01.PNG", "01.jpg")])
    assert [Path(path).name for path in json.loads(got.body)] == ["01.png", "01-2.png", "01-3.PNG", "01.jpg"]


def test_an_upload_that_is_none_is_an_error(client: Any) -> None:
    for kind, body in (
        ("text/plain", b"x"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=e", b"--e"),
    ):
        assert client.ask("POST", "/gradio_api/upload", body, content_type=kind).status == 400


# -- the end of a page -------------------------------------------------------------------------------------------------


def test_what_a_page_left_is_deleted_when_it_closes(server: Any, client: Any, png: bytes) -> None:
    connection = client.open_page()
    path = Path(uploaded(client, png))
    assert path.exists()
    connection.close()
    eventually(lambda: not path.exists())


def test_a_connection_that_is_lost_and_made_again_loses_nothing(client: Any, png: bytes) -> None:
    first = client.open_page()
    path = Path(uploaded(client, png))
    first.close()
    again = client.open_page()
    time.sleep(guard.GRACE + 1)
    assert fetch(client, str(path)).body == png
    again.close()
    eventually(lambda: not path.exists())


def test_a_page_that_closes_in_mid_run_stops_its_run(server: Any, client: Any, gate: Any) -> None:
    config = json.loads(client.ask("GET", "/config").body)
    index = next(
        each["id"]
        for each in config["dependencies"]
        if any(
            part["id"] == target[0] and part["props"].get("value") == "Wait"
            for target in each["targets"]
            for part in config["components"]
        )
    )
    gate.close()
    connection = client.open_page()
    count = len(next(each for each in config["dependencies"] if each["id"] == index)["inputs"])
    body = {"data": ["small", *[None] * (count - 1)], "fn_index": index, "session_hash": client.page}
    assert client.post("/gradio_api/queue/join", body).status == 200
    assert gate.begun.wait(LONG)
    session = client.cookie.split("=")[1]
    assert server.jobs.busy(session, client.page)
    connection.close()
    eventually(lambda: not server.jobs.busy(session))
    # The server goes on.
    assert client.ask("GET", "/config").status == 200


def test_a_page_that_closes_in_mid_click_stops_it_and_nothing_of_it_stays(
    server: Any, client: Any, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.workbench.tabs import click

    begun, release, ran_on = threading.Event(), threading.Event(), threading.Event()

    def held(*_: Any) -> Any:
        begun.set()
        while not release.is_set():
            time.sleep(0.02)
        ran_on.set()

    monkeypatch.setattr(click, "_opened", held)
    connection = client.open_page()
    uploaded(client, png)
    config = json.loads(client.ask("GET", "/config").body)
    labels = {part["id"]: part["props"].get("label") for part in config["components"]}
    index, inputs = next(
        (each["id"], each["inputs"])
        for each in config["dependencies"]
        if each["inputs"] and labels.get(each["inputs"][0]) == "What is clicked"
    )
    session = client.cookie.split("=")[1]
    folder = server.sessions.folder(session)
    for number in range(1, 4):
        given = [json.dumps({"n": number, "do": []}), *[None] * (len(inputs) - 2), "small-sam"]
        body = {"data": given, "fn_index": index, "session_hash": client.page}
        assert client.post("/gradio_api/queue/join", body).status == 200
    assert begun.wait(LONG)
    assert server.clicks.busy(session, client.page)
    connection.close()
    eventually(lambda: not server.clicks.busy(session))
    eventually(lambda: not folder.exists())
    # Nor does what Gradio still had in line begin, or come back when it is let go.
    release.set()
    time.sleep(1)
    assert not server.clicks.busy(session)
    assert not ran_on.is_set()
    assert not folder.exists()
