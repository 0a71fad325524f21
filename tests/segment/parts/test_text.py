"""Words against cells, normalised by cell or by channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment import Segmenter, TextSide
from binderclip.segment.parts.text import BoundText
from binderclip.segment.task import WordMaps


def test_each_way_to_normalise_is_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    dense, rows = torch.randn(2, 5, 3, 4, generator=generator), torch.randn(6, 5, generator=generator)
    for axis, normalise in ((1, "channels"), ((2, 3), "tokens")):
        bound = BoundText(tuple("abcdef"), rows, torch.arange(6), 1.0, normalise=normalise)  # type: ignore[arg-type]
        maps = dense.numpy() / np.sqrt((dense.numpy() ** 2).sum(axis, keepdims=True))
        expected = np.einsum("behw,qe->bqhw", maps, rows.numpy())
        np.testing.assert_allclose(bound.cosines(dense).numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(
            bound.cosines(dense, normalised=True), np.einsum("behw,qe->bqhw", dense, rows), atol=1e-5
        )
    with pytest.raises(UsageError, match="normalise must be one of channels, tokens"):
        TextSide(normalise="cells")  # type: ignore[arg-type]


def test_the_option_reaches_segmenters_and_word_maps(clip_model: Any) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    text = Segmenter(clip_model, "clip_surgery").parts.text
    plain, tokens = (
        Segmenter(clip_model, "clip_surgery", text=text.with_(normalise=normalise))
        for normalise in ("channels", "tokens")
    )
    scores = [segmenter(picture, ["cat", "dog"]).scores for segmenter in (plain, tokens)]
    assert not torch.allclose(*scores)
    maps = [WordMaps.surgery(clip_model, normalise=normalise) for normalise in ("channels", "tokens")]  # type: ignore[arg-type]
    assert [own.segmenter.parts.text.normalise for own in maps] == ["channels", "tokens"]
    assert not torch.allclose(*(own(picture, ["cat"]) for own in maps))
