"""Folders of `binderclip compress` in open_clip itself: equal features, or one sentence on why it cannot open them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from binderclip.compress import PruneBudget, RandomScore, remove, tower_groups
from binderclip.models import load

Command = Callable[..., Any]
DIGITS = ("--data", "digits", "--split", "all", "--limit", 24)
TEXTS = ["a cat", "two dogs on a beach"]


@pytest.mark.parametrize("method", ["mope", "magnitude"])
@pytest.mark.parametrize("parts", ["neurons", "blocks", "neurons,blocks"])
def test_a_model_whose_heads_stay_opens_in_open_clip(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, parts: str, method: str
) -> None:
    out = tmp_path / "smaller"
    done = command(
        "compress", tiny_clip(2), *DIGITS, "--method", method, "--parts", parts, "--out", out, "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    document = done.json()
    assert document["open_clip"] == f"open_clip opens the folder as well, as local-dir:{out}."
    assert set(document["groups"]) == {
        {"neurons": "neuron set" if method == "mope" else "neuron", "blocks": "block"}[part]
        for part in parts.split(",")
    }
    if "blocks" in parts:
        assert document["groups"]["block"] == {
            "before": 3,
            "after": 2,
        }  # of the 2 image blocks one, of 1 text block none
    model = load(str(out))
    assert "pruned" not in model.config["model_cfg"]
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    theirs.eval()
    assert type(theirs) in (open_clip.CLIP, open_clip.CustomTextCLIP)
    assert sum(p.numel() for p in theirs.parameters()) == document["after"]["parameters"]
    pixels = torch.randn(2, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0))
    ids = model.tokenize(TEXTS).ids
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode_image(pixels), model.encode_pixels(pixels))
        torch.testing.assert_close(theirs.encode_text(ids), model.encode_text(TEXTS))
    assert preprocess is not None


def test_a_width_of_no_round_ratio_is_kept_to_the_neuron(tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    for amount in (0.03, 0.11, 0.3, 0.77):
        model = load(str(tiny_clip(2)))
        groups = tower_groups(model.image_tower, ("neuron",))
        keep = PruneBudget(amount=amount).select(RandomScore(seed=0)(model, groups))
        remove(model, groups, keep)
        assert "pruned" not in model.config["model_cfg"]
        again = load(str(model.save(tmp_path / str(amount))))
        neurons = [int(mask.sum()) for mask in keep.values()]
        assert [block.mlp.c_fc.out_features for block in again.backbone.visual.transformer.resblocks] == neurons


def test_one_that_open_clip_has_no_words_for_says_so(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    for number, (words, options) in enumerate(
        {
            "fewer heads than the width of the image tower holds": ("--method", "random"),
            "it reads float weights, and these have few bits": ("--bits", 4),
        }.items()
    ):
        out = tmp_path / str(number)
        done = command("compress", tiny_clip(2), *DIGITS, *options, "--out", out)
        assert done.code == 0, done.err
        text = " ".join((done.out + done.err).split())
        assert "open_clip alone cannot open the folder" in text
        assert words in text
        load(str(out))


def test_blocks_of_several_widths_stay_a_record_of_ours(tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    model = load(str(tiny_clip(2)))
    groups = tower_groups(model.image_tower, ("neuron",))[:1]
    remove(model, groups, PruneBudget(amount=0.5).select(RandomScore(seed=0)(model, groups)))
    assert set(model.config["model_cfg"]["pruned"]) == {"vision"}
    with pytest.raises(Exception, match=r"pruned|unexpected"):
        open_clip.create_model_and_transforms(f"local-dir:{model.save(tmp_path / 'uneven')}")


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    for words, options in {
        "--parts 'tokens': some of heads, neurons, blocks": ("--parts", "tokens"),
        "--parts ',': some of": ("--parts", ","),
        "5 blocks in a layer are needed, and the largest has 2": ("--parts", "blocks", "--target", 0.2),
    }.items():
        done = command("compress", tiny_clip(2), *DIGITS, *options, "--out", tmp_path / "made")
        assert done.code == 2, words
        assert words in " ".join(done.err.split()), done.err
    assert not (tmp_path / "made").exists()
