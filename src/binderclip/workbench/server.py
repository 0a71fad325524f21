"""The server: on 127.0.0.1 alone, on a port that is free, with a folder of its own, saying nothing to anybody."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError, require
from binderclip.models.files.registry import DEFAULT

if TYPE_CHECKING:
    from binderclip.workbench.tab import Tab

ADDRESS = "127.0.0.1"
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Settings that keep Gradio and its libraries from calling home, whatever the user's own environment says."""
ENDS = 5.0
"""Seconds that runs have to end before the folder goes that all files are in."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Checkpoints are taken from the cache, unless the user's environment says otherwise."""


class WorkbenchServer:
    """A workbench that is running; `address` is what a browser opens.

    Args:
        port: where to listen; 0 takes a free one.
        model: chosen when the page opens.
        folders: that pages may read pictures from, besides what is uploaded.
        tabs: of the page; default all.
        device: where models run.

    Raises:
        UsageError: an unknown model or device, or a port that is taken.
        NotSupported: a device that is not here.
        CheckpointError: a model that cannot be opened.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        model: str = DEFAULT,
        folders: Sequence[Path] = (),
        tabs: Sequence[Tab] | None = None,
        device: str = "cpu",
    ) -> None:
        from binderclip.models.files.devices import resolve_device

        resolve_device(device)
        self._socket = _listen(port)
        self.port = int(self._socket.getsockname()[1])
        self.key = secrets.token_urlsafe(16)
        self._temporary = tempfile.TemporaryDirectory(prefix="binderclip-workbench-", ignore_cleanup_errors=True)
        root = Path(os.path.realpath(self._temporary.name))
        # Read when Gradio is imported and when its components are made.
        os.environ.update(QUIET)
        os.environ["GRADIO_TEMP_DIR"] = str(root)
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)
        require("gradio", "workbench")

        from binderclip.workbench.app import build_page, mount
        from binderclip.workbench.jobs import JobQueue
        from binderclip.workbench.models import ModelShelf
        from binderclip.workbench.sessions import Sessions
        from binderclip.workbench.tabs import TABS
        from binderclip.workbench.tags.store import NAME, TagStore

        # What takes a moment, such as a click, does not wait for runs of hours.
        self.jobs, self.clicks = JobQueue(), JobQueue()
        self.sessions, self.models = Sessions(root), ModelShelf(device)
        self._check_model(model)
        page = build_page(
            TABS if tabs is None else tabs,
            jobs=self.jobs,
            clicks=self.clicks,
            sessions=self.sessions,
            models=self.models,
            model=model,
            folders=tuple(folders),
        )
        queues = (self.jobs, self.clicks)
        tags = TagStore((Path(folders[0]) if folders else root) / NAME)
        only = Path(folders[0]) if len(folders) == 1 else None
        self._application = mount(
            page, sessions=self.sessions, queues=queues, port=self.port, key=self.key, tags=tags, folder=only
        )
        self._server: Any = None

    def _check_model(self, name: str) -> None:
        """Refuse a model that cannot be opened, before a page offers it; bundled ones wait until they are asked for.

        Raises:
            BinderclipError: as `models.load`.
        """
        from binderclip.models import list_models

        if name in list_models():
            return
        try:
            self.models.image_text(name)
        except BaseException:
            self._socket.close()
            self._temporary.cleanup()
            raise

    @property
    def address(self) -> str:
        """The page's address, with the key that opens it."""
        return f"http://{ADDRESS}:{self.port}/?key={self.key}"

    def run(self) -> None:
        """Serve until Ctrl-C."""
        import uvicorn

        config = uvicorn.Config(
            self._application,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=2,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        try:
            self._server.run(sockets=[self._socket])
        finally:
            for queue in (self.jobs, self.clicks):
                queue.close()
            self._socket.close()
            # What still writes would leave files behind.
            for queue in (self.jobs, self.clicks):
                queue.wait_idle(ENDS)
            self._temporary.cleanup()

    @contextlib.contextmanager
    def in_background(self) -> Iterator[WorkbenchServer]:
        """Serve from another thread as long as the block runs.

        Raises:
            UsageError: the server does not start.
        """
        thread = threading.Thread(target=self.run, name="workbench-server", daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while self._server is None or not self._server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise UsageError("the workbench did not start")
            time.sleep(0.02)
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(20)


def _listen(port: int) -> socket.socket:
    """A socket on this machine's own address.

    Raises:
        UsageError: the port is taken, or may not be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--port {port}: {reason}; leave it out and a free one is taken") from error
    listening.listen(128)
    return listening
