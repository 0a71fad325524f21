"""The code of the guide 'Learned words and adapters' runs as it stands, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.models import build

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "words-and-adapters.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="tiny").eval()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("binderclip.models.load", lambda name: model)
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    w = torch.zeros(2, requires_grad=True)
    names: dict[str, Any] = {
        "paths": paths,
        "labels": ["cat", "dog", "cat", "dog"],
        "parameters": [w],
        "task_loss": lambda: w[0] - w[1],
        "stay_loss": lambda: w[1],
    }
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert (tmp_path / "runs" / "words" / "head.json").is_file()
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, 0.0]
    for page in re.findall(r"\]\((\.\./[^)]+)\)", GUIDE.read_text(encoding="utf-8")):
        assert (GUIDE.parent / page).resolve().is_file(), page
