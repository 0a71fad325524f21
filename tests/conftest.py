"""What all tests share: the same random numbers in any order and on any worker."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed before the fixtures of a test are made, those of a whole module too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start, also where the tests run in the background and ignore it themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
