"""Features of outside models on the windows of a segmenter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models.towers import Record
from binderclip.segment.affinity import External, cosines
from binderclip.segment.context import Context, Frame, open_windows


def windows(model, places: list[tuple[int, int]], size: tuple[int, int] = (32, 48)) -> Context:
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    frame = Frame(model, pixels, pixels)
    cut = torch.cat([pixels[..., y : y + 32, x : x + 32] for y, x in places])
    with torch.no_grad():
        return open_windows(frame, cut, places, Record())


def means(pixels: torch.Tensor) -> torch.Tensor:
    """Mean colours of cells of 8 pixels."""
    return F.avg_pool2d(pixels, 8)


def test_features_of_the_whole_picture_are_cut_where_the_windows_lie(clip_model) -> None:
    context = windows(clip_model, [(0, 0), (0, 16)])
    whole, each = External(means, per="image")(context), External(means)(context)
    assert whole.shape == (2, 3, 4, 4)
    # Cells of 8 px are cells of the tower, so a window's own features are the picture's, cut.
    torch.testing.assert_close(whole, each)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(2, 4, 4))


def test_a_source_runs_once_a_call(clip_model) -> None:
    seen = []

    def source(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape))
        return means(pixels)

    context = windows(clip_model, [(0, 0), (0, 16)])
    for _ in range(2):
        External(source)(context)
        External(source, per="image")(context)
    assert seen == [(2, 3, 32, 32), (1, 3, 32, 48)]


def test_own_features_are_the_normalised_stream(clip_model) -> None:
    context = windows(clip_model, [(0, 0)])
    block = clip_model.visual.transformer.resblocks[-1]
    want = F.normalize(block.ln_1(context.tokens.x)[:, 1:], dim=-1)
    found = External()(context)
    torch.testing.assert_close(found.flatten(2).mT, want)
    torch.testing.assert_close(cosines(found), want @ want.mT)


def test_bad_sources_are_named(clip_model) -> None:
    context = windows(clip_model, [(0, 0)])
    with pytest.raises(UsageError, match=r"\(B, C, h, w\)"):
        External(lambda pixels: pixels[0])(context)
    with pytest.raises(UsageError, match="window or image"):
        External(per="pixel")
