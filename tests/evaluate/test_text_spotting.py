"""The text-spotting benchmark (p051) with a model that reads, one that does not, and figures by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from binderclip.data.made.words import render_text
from binderclip.errors import UsageError
from binderclip.evaluate import TextSpottingBenchmark

WORDS = ["cat", "horse", "ox", "sparrow", "bee", "lion", "ant", "whale", "frog", "owl", "elephants"]
SIDE, SIZE = 96, 14


class Reader:
    """Compares the letters of a picture, dark or light, with the same word drawn; blurs what it sees by `offset`."""

    def __init__(self, offset: float, reads: bool = True) -> None:
        self.offset, self.reads = offset, reads

    def _rows(self, images: list[Image.Image]) -> torch.Tensor:
        pixels = [np.asarray(image.convert("L"), dtype=np.float64).ravel() for image in images]
        ink = torch.tensor(np.array([np.abs(row - row[0]) / 255 for row in pixels]))
        if not self.reads:
            ink = torch.zeros_like(ink)
        return F.normalize(F.pad(F.normalize(ink, dim=1), (0, 1), value=self.offset), dim=1)

    def encode_image(self, images: list[Image.Image], *, normalize: bool, batch_size: int) -> torch.Tensor:
        return self._rows(images)

    def encode_text(self, texts: list[str], *, normalize: bool) -> torch.Tensor:
        blank = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
        return self._rows([render_text(blank, text, size=SIZE).image for text in texts])


def test_figures_are_those_of_all_pairs() -> None:
    model = Reader(0.5)
    found = TextSpottingBenchmark(WORDS, side=SIDE, size=SIZE).evaluate(model, batch_size=3)  # type: ignore[arg-type]
    texts = model.encode_text(WORDS, normalize=True).numpy()
    rows = []
    for ground, letters in ((255, 0), (0, 255), (128, 255), (128, 0)):
        blank = Image.new("RGB", (SIDE, SIDE), (ground,) * 3)
        pictures = [render_text(blank, word, size=SIZE, colour=(letters,) * 3).image for word in WORDS]
        rows.append(model._rows(pictures).numpy() @ texts.T)
    every = np.array(rows)
    own = every[:, range(11), range(11)]
    np.testing.assert_allclose(found.cosines.numpy(), own, atol=1e-12)
    assert (found.mean, found.std) == pytest.approx((own.mean(), own.std()))
    others = every[:, ~np.eye(11, dtype=bool)].mean()
    assert found.spotting == pytest.approx(own.mean() - others)
    assert found.by_length[3] == pytest.approx(own[:, [0, 4, 6, 9]].mean())
    assert list(found.by_length) == [2, 3, 4, 5, 7, 9]
    assert found.by_frequency == pytest.approx({n + 1: own[:, n : n + 2].mean() for n in range(0, 11, 2)})


def test_a_model_that_does_not_read_spots_nothing_however_high_its_cosines() -> None:
    blind = TextSpottingBenchmark(WORDS, side=SIDE, size=SIZE).evaluate(Reader(1.0, reads=False))  # type: ignore[arg-type]
    reads = TextSpottingBenchmark(WORDS, side=SIDE, size=SIZE).evaluate(Reader(0.1))  # type: ignore[arg-type]
    assert blind.mean == pytest.approx(1.0)
    assert blind.spotting == pytest.approx(0.0, abs=1e-9)
    assert reads.spotting > 0.3


def test_a_vocabulary_of_counts_is_ordered_by_them() -> None:
    assert TextSpottingBenchmark({"rare": 1, "common": 9, "usual": 4}).words == ["common", "usual", "rare"]
    for words in (["one"], ["one", "one"], ["one", " "]):
        with pytest.raises(UsageError, match="at least two words"):
            TextSpottingBenchmark(words)
    with pytest.raises(UsageError, match="styles"):
        TextSpottingBenchmark(WORDS, styles=())
