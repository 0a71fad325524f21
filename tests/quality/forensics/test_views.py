"""What detectors look at: crops at the picture's own resolution, and pictures that are too small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.quality.forensics.views import native_crop, seen

IMAGE = torch.arange(3 * 10 * 14).view(3, 10, 14).float() / 420


def test_a_crop_keeps_pixels_and_reaches_all_places() -> None:
    assert torch.equal(native_crop(IMAGE, 4), IMAGE[:, 3:7, 5:9])
    assert torch.equal(native_crop(IMAGE, 4, (0.0, 0.0)), IMAGE[:, :4, :4])
    assert torch.equal(native_crop(IMAGE, 4, (0.9999, 0.9999)), IMAGE[:, -4:, -4:])


@pytest.mark.parametrize(("height", "width"), [(6, 14), (3, 5), (1, 4), (2, 1)])
def test_small_pictures_are_mirrored_at_their_edges(height: int, width: int) -> None:
    small = IMAGE[:, :height, :width]
    out = native_crop(small, 12, (0.0, 0.0))
    # What numpy pads; a side of one pixel has nothing to mirror and is repeated.
    around = ((0, 0), (0, max(12 - height, 0)), (0, max(12 - width, 0)))
    wanted = np.pad(small.numpy(), around, mode="reflect" if min(height, width) > 1 else "edge")[:, :12, :12]
    assert np.array_equal(out.numpy(), wanted)


def test_the_tower_sees_the_crop_or_the_whole_picture(tower: ImageTextModel) -> None:
    steps = tower.preprocess
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    crop = seen(images, "crop", 32, steps, [(0.0, 0.0), (0.5, 0.5)])
    assert torch.equal(crop[0], steps.normalize(images[:1, :, :32, :32])[0])
    assert torch.allclose(seen(images, "resize", 32, steps), steps(images, size=32))
    with pytest.raises(UsageError, match="view must be one of crop, resize"):
        seen(images, "zoom", 32, steps)  # type: ignore[arg-type]
