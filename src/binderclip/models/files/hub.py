"""Whether the Hugging Face hub can be reached, asked once and quickly.

Its client tries six times with growing pauses before it gives up, half a minute for every file; a machine without a
network should hear so at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


def reachable(timeout: float = 4.0) -> bool:
    """True where a connection to the hub opens within `timeout` seconds (or a proxy stands between)."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "huggingface.co", port), timeout=timeout).close()
    except OSError:
        return False
    return True


@contextmanager
def cache_only_when_unreachable() -> Iterator[bool]:
    """Inside, the hub's client reads its cache alone where the hub cannot be reached; gives whether it can."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    online = reachable()
    if not online:
        constants.HF_HUB_OFFLINE = True
    try:
        yield online
    finally:
        constants.HF_HUB_OFFLINE = before


def why_not(error: BaseException) -> str:
    """Why a download failed, in a few words."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        # Nobody has tried: the user, or the workbench, has said not to.
        return "HF_HUB_OFFLINE is set, so that the Hugging Face hub was not asked; with HF_HUB_OFFLINE=0 it is"
    if not reachable():
        return "the Hugging Face hub cannot be reached"
    words = " ".join(str(error).split())
    return words if len(words) <= 160 else words[:160].rsplit(" ", 1)[0] + " ..."
