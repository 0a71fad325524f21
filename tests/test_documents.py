"""JSON that any program can read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch

from binderclip.documents import json_text, plain


def test_everything_becomes_strict_json() -> None:
    document = {1: Path("a/b"), "x": [math.inf, -math.inf, math.nan, 0.5], "t": torch.tensor([1.0, math.nan])}
    expected = {"1": "a/b", "x": ["inf", "-inf", None, 0.5], "t": [1.0, None]}

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(json_text(document), parse_constant=refuse) == expected
    assert plain((np.float64(2.0), np.arange(2))) == [2.0, [0, 1]]
