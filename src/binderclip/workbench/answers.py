"""The streams on which pages read what comes of their presses, and when a press has to wait for the end of one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

HOLD = 0.5
"""Seconds that a browser has to let go of a stream that is over; it takes thousandths."""
_OVER = b'"msg":"close_stream"'
"""In the last message of a stream; inside a text of a user the quotes would have backslashes."""


class AnswerStreams:
    """Gradio's streams of answers, one open for each page that waits for something.

    Gradio ends a page's stream when nothing is pending. A press that reaches it after that, but is confirmed before the
    page has read of the end, would never be answered: the page opens no other stream, since it believes in this one,
    and then closes this one. So presses wait until the page has let go.

    Args:
        inside: Gradio's application.
    """

    def __init__(self, inside: Application) -> None:
        self._inside = inside
        self._closing: dict[str, asyncio.Event] = {}

    async def serve(self, scope: dict[str, Any], receive: Receive, send: Send, page: str) -> None:
        """Send a stream; its very end is held back until the page lets go, or for `HOLD` seconds."""
        over: asyncio.Event | None = None
        last: dict[str, Any] | None = None

        async def sending(message: dict[str, Any]) -> None:
            nonlocal over, last
            if over is None and _OVER in message.get("body", b""):
                over = self._closing[page] = asyncio.Event()
            if over is not None and not message.get("more_body"):
                last = message
            else:
                await send(message)

        async def receiving() -> dict[str, Any]:
            message = await receive()
            if over is not None:
                # The page has gone because all is said: no reason for Gradio to give up what it presses next.
                await asyncio.Event().wait()
            return message

        try:
            await self._inside(scope, receiving, sending)
            if last is not None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_gone(receive), HOLD)
                await send(last)
        finally:
            if over is not None:
                if self._closing.get(page) is over:
                    del self._closing[page]
                over.set()

    async def free(self, page: str) -> None:
        """Wait while a stream of the page is at its end."""
        while (over := self._closing.get(page)) is not None:
            await over.wait()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
