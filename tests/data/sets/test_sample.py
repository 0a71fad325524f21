from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from binderclip.data import Batch, Collate, Sample, Skipped, collate, fit_square
from binderclip.errors import UsageError


def sample(key: str, image: Image.Image, label: int | None = None) -> Sample:
    return Sample(image, f"caption of {key}", key, label=label, attributes={"n": 1}, source="test")


def test_collate_drops_and_passes_on_what_was_skipped() -> None:
    batch = collate(
        [sample("a", Image.new("RGB", (4, 3)), 2), Skipped("b", "gone"), sample("c", Image.new("RGB", (2, 2)))]
    )
    assert isinstance(batch, Batch)
    assert batch.keys == ["a", "c"]
    assert batch.captions == ["caption of a", "caption of c"]
    assert batch.labels.tolist() == [2, -1]
    assert batch.skipped == [("b", "gone")]
    assert [image.size for image in batch.images] == [(4, 3), (2, 2)]
    assert len(collate([Skipped("a", "x")])) == 0


def test_collate_to_tensors() -> None:
    red = Image.new("RGBA", (6, 6), (255, 0, 0, 128))
    batch = Collate(6, mode="RGBA")([sample("a", red), sample("b", Image.new("RGB", (6, 6), (0, 0, 9)))])
    assert batch.images.shape == (2, 4, 6, 6)
    assert batch.images.dtype == torch.uint8
    assert batch.images[0, :, 2, 2].tolist() == [255, 0, 0, 128]
    assert batch.images[1, :, 2, 2].tolist() == [0, 0, 9, 255]
    over_black = Collate(6, background=(0, 0, 0))([sample("a", red)])
    assert over_black.images[0, :, 2, 2].tolist() == [128, 0, 0]
    assert Collate(8)([]).images.shape == (0, 3, 8, 8)


def test_fit_keeps_what_it_says() -> None:
    wide = Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[None, :, None] * 6, 3, 2).repeat(20, 0))
    crop = np.asarray(fit_square(wide, 20))  # the middle 20 columns, untouched
    assert np.array_equal(crop, np.asarray(wide)[:, 10:30])
    pad = np.asarray(fit_square(wide, 40, mode="RGBA", fit="pad"))
    assert np.array_equal(pad[10:30, :, :3], np.asarray(wide))
    assert pad[:10].max() == 0
    assert pad[10:30, :, 3].min() == 255
    assert np.asarray(fit_square(wide, 40, fit="pad", background=(1, 2, 3)))[0, 0].tolist() == [1, 2, 3]
    assert fit_square(wide, 10, fit="squash").size == (10, 10)
    with pytest.raises(UsageError, match="'stretch'"):
        fit_square(wide, 10, fit="stretch")  # type: ignore[arg-type]


def test_transparent_colours_do_not_bleed_when_resized() -> None:
    array = np.zeros((32, 32, 4), np.uint8)
    array[..., 1] = 255  # green hides under the transparent half
    array[:, 16:] = (200, 0, 0, 255)
    small = np.asarray(fit_square(Image.fromarray(array), 8, mode="RGBA"))
    assert small[small[..., 3] > 0][:, 1].max() <= 1


@settings(max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 48),
    fit=st.sampled_from(["pad", "crop", "squash"]),
    source=st.sampled_from(["RGB", "RGBA"]),
    mode=st.sampled_from(["RGB", "RGBA"]),
)
def test_a_constant_picture_stays_constant(
    width: int, height: int, size: int, fit: str, source: str, mode: str
) -> None:
    colour = (40, 90, 200, 255)[: len(source)]
    out = fit_square(Image.new(source, (width, height), colour), size, mode=mode, fit=fit, background=(40, 90, 200))
    assert out.size == (size, size)
    assert out.mode == mode
    array = np.asarray(out)
    visible = array[..., 3] > 0 if mode == "RGBA" else np.ones(array.shape[:2], bool)
    assert visible.any()
    assert np.abs(array[visible][:, :3].astype(int) - (40, 90, 200)).max() <= 1
