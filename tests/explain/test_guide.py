"""The guide's commands name what there is, and its code runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from binderclip.explain import METHODS
from binderclip.models import classifier, list_models

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "attribution.md").read_text(encoding="utf-8")
PAGE = "guides/attribution.md"
Block = Callable[[str, str], str]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(x).mean(dim=(2, 3)))


def test_methods_of_the_guide_exist() -> None:
    table = "\n".join(line for line in GUIDE.splitlines() if line.startswith("| ") and "`" in line)
    named = set(re.findall(r"`([a-z_]+)`", table))
    assert len(named) > 10
    assert named - set(list_models()) <= set(METHODS)
    assert set(re.findall(r"--method (\w+)", GUIDE)) <= set(METHODS)


def test_the_code_for_an_own_network_runs(guide_block: Block) -> None:
    net = classifier(Net(), ["cat", "dog", "cow", "hen"], (0.5,) * 3, (0.5,) * 3, 16)
    space = {"net": net, "x": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    # `layer4` is the wrapped network's.
    exec(guide_block(PAGE, 'layer="layer4"').replace('layer="layer4"', 'layer="module.layer4"'), space)
    assert space["maps"].shape == (2, 16, 16)
    assert set(space["both"]) == {"a", "b"}


def test_the_code_that_compares_runs(clip_model, guide_block: Block, tmp_path: Path, monkeypatch) -> None:
    from binderclip import models

    monkeypatch.setattr(models, "load", lambda name: clip_model)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[:, 8:20, 8:20] = True
    space = {"images": pictures, "masks": masks}
    exec(guide_block(PAGE, "sheet.png"), space)
    assert {"deletion", "insertion", "pointing", "inside", "completeness"} <= set(space["found"].table()[0])
    assert (tmp_path / "sheet.png").is_file()
