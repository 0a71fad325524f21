from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from binderclip.models.files import hub


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_listening_host_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.reachable()
        with hub.cache_only_when_unreachable() as online:
            assert online
            assert not constants.HF_HUB_OFFLINE
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub.reachable()


def test_a_closed_port_is_not_and_the_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with hub.cache_only_when_unreachable() as online:
        assert not online
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert "cannot be reached" in hub.why_not(OSError("a long story"))


def test_a_proxy_counts_as_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub.reachable()
    assert hub.why_not(OSError("x " * 200)).endswith(" ...")


def test_who_was_not_asked_is_not_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workbench sets HF_HUB_OFFLINE: a user with a network must not hear that there is none."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reason = hub.why_not(OSError("a long story"))
    assert "cannot be reached" not in reason
    assert "HF_HUB_OFFLINE=0" in reason
