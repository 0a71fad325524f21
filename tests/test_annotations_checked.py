"""`make shapes` checks what it says, in every process that it starts."""

from __future__ import annotations

import jaxtyping
import pytest
import torch

from binderclip.losses import info_nce


def test_a_wrong_shape_is_refused_in_this_process(pytestconfig: pytest.Config):
    if not pytestconfig.getoption("jaxtyping_packages", None):
        pytest.skip("annotations are checked by `make shapes` alone")
    with pytest.raises(jaxtyping.TypeCheckError):
        info_nce(torch.randn(2, 3, 4), torch.randn(2, 3))
