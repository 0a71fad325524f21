"""Sources of a recipe: what is held out, and which captions are one caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import ImageTextDataset, load_data, write_shards
from binderclip.errors import UsageError
from binderclip.models import TokenIds
from binderclip.train import World
from binderclip.train.feed.pictures import Pictures, open_sources
from binderclip.train.feed.stream import ShardBatches
from binderclip.train.recipe.stage import DataSpec


def write(folder: Path, contents: list[int]) -> None:
    """A picture and a caption for each number; equal numbers are equal pictures."""
    folder.mkdir()
    for place, content in enumerate(contents):
        pixels = np.random.default_rng(content).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:02}.png")
        (folder / f"{place:02}.txt").write_text(f"picture {place}", encoding="utf-8")


def keys(folder: Path, split: str, hold_out: float) -> list[str]:
    (data,), _ = open_sources([DataSpec(name=str(folder), split=split, hold_out=hold_out)])
    return list(data.keys)


def test_the_share_is_held_out_of_training_and_no_copy_is_in_both(tmp_path: Path) -> None:
    write(tmp_path / "single", list(range(20)))
    val, train = (keys(tmp_path / "single", split, 0.2) for split in ("val", "train"))
    assert (len(val), len(train)) == (4, 16)
    assert not set(val) & set(train)
    # Of ten pairs a quarter would be five pictures, two pairs and a half: six are held out.
    write(tmp_path / "pairs", [number // 2 for number in range(20)])
    val, train = (keys(tmp_path / "pairs", split, 0.25) for split in ("val", "train"))
    assert (len(val), len(train)) == (6, 14)
    assert {int(key[:2]) // 2 for key in val}.isdisjoint(int(key[:2]) // 2 for key in train)
    write(tmp_path / "same", [0] * 4)
    with pytest.raises(UsageError):
        keys(tmp_path / "same", "train", 0.5)


CAPTIONS = ["A cat", "a CAT", "dog", "a cat"]


def test_captions_are_one_whatever_their_case(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 4, 4, 3), np.uint8)
    data = ImageTextDataset(images, CAPTIONS, list("abcd"))
    ids = Pictures([data], [1.0], size=4).caption_ids.tolist()
    assert ids[0] == ids[1] == ids[3] != ids[2]
    write_shards(data, tmp_path / "x-%d.tar")

    def tokenize(captions: list[str]) -> TokenIds:
        zeros = torch.zeros(len(captions), dtype=torch.long)
        return TokenIds(zeros[:, None], zeros[:, None] == 0, zeros)

    settings: dict[str, Any] = {"size": 4, "fit": "crop", "workers": 0, "world": World(), "tokenize": tokenize}
    batches = ShardBatches(
        load_data(str(tmp_path)), batch_size=4, prepare=lambda pixels: pixels.images[:, :3].float(), **settings
    )
    (batch,) = list(batches)
    own = dict(zip(batch.keys, batch.caption_ids.tolist(), strict=True))
    assert own["a"] == own["b"] == own["d"] != own["c"]
