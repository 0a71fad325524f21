"""Few-shot heads as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.folders import write_folder
from binderclip.segment import (
    CorrelationBackbone,
    FewShotSegmenter,
    HypercorrelationNet,
    PriorMask,
    load_few_shot,
    save_few_shot,
)


def test_a_saved_head_answers_as_before(lite: CorrelationBackbone, painted: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = FewShotSegmenter(lite, HypercorrelationNet(lite.counts, widths=(4, 4, 8), support="masked"))
    folder = save_few_shot(before, tmp_path / "mine", card={"data": "a square"})
    after = load_few_shot(folder, backbone=lite)
    picture, mask = painted((4, 4, 20, 20))
    one, two = (each.logits(picture, each.examples([picture], [mask])) for each in (before, after))
    assert torch.equal(one, two)


def test_what_is_no_head_is_named(lite: CorrelationBackbone, colours: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PriorMask has no weights to save"):
        save_few_shot(FewShotSegmenter(lite, PriorMask()), tmp_path / "x")
    with pytest.raises(UsageError, match="no folder 'nothing' of a few-shot head"):
        load_few_shot("nothing")
    other = write_folder(tmp_path / "other", kind="vision", config={}, state={"a": torch.zeros(1)}, card={})
    with pytest.raises(CheckpointError, match="'vision' model, and a 'few-shot' one"):
        load_few_shot(other)
    saved = save_few_shot(FewShotSegmenter(lite, HypercorrelationNet(lite.counts, widths=(4, 4, 4))), tmp_path / "own")
    with pytest.raises(CheckpointError, match=r"levels of \[5, 6, 2\] maps, and colours has \[1, 1, 2\]"):
        load_few_shot(saved, backbone=colours)
