"""Fences (p116, arXiv 2409.13242): exact outside of the mask, distances by hand, every pattern's own geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from torch import Tensor

from binderclip.data import FENCES, synthesize_fence
from binderclip.errors import UsageError


def pictures(count: int = 4, side: int = 48) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pattern", FENCES)
def test_outside_of_the_mask_the_picture_is_as_it_was(pattern: str) -> None:
    clean = pictures()
    fence = synthesize_fence(clean, [pattern], generator=generator())
    assert torch.equal(fence.image * (1 - fence.mask), clean * (1 - fence.mask))
    assert bool(((fence.mask == 0) | (fence.mask == 1)).all())
    assert bool((fence.mask.mean((1, 2, 3)) > 0.01).all())
    assert bool((fence.mask.mean((1, 2, 3)) < 0.9).all())
    covered = (fence.image != clean).any(1, keepdim=True) & (fence.mask > 0)
    assert float(covered.float().sum() / fence.mask.sum()) > 0.99


def test_bars_cover_width_over_pitch_and_lattices_what_either_of_two_covers() -> None:
    settings = {"pitch": (10.0, 10.0), "width": (3.0, 3.0)}
    clean = pictures(64, 60)
    bars = synthesize_fence(clean, ["bars"], generator=generator(), **settings).mask.mean()  # type: ignore[arg-type]
    lattice = synthesize_fence(clean, ["lattice"], generator=generator(), **settings).mask.mean()  # type: ignore[arg-type]
    assert float(bars) == pytest.approx(0.3, abs=0.01)
    assert float(lattice) == pytest.approx(1 - 0.7**2, abs=0.01)


def test_straight_bars_lie_on_lines_and_wires_do_not() -> None:
    """The strands' pixels, unmixed by connection, against the best line through each."""

    def deviation(pattern: str) -> float:
        settings = {"pitch": (14.0, 14.0), "width": (1.5, 1.5), "sag": (2.0, 2.0)}
        fence = synthesize_fence(pictures(6, 64), [pattern], generator=generator(1), **settings)  # type: ignore[arg-type]
        worst = []
        for mask in fence.mask[:, 0].numpy():
            labels, count = label(mask, structure=np.ones((3, 3)))
            sizes = [np.argwhere(labels == k + 1) for k in range(count)]
            strand = max(sizes, key=len)
            centred = strand - strand.mean(0)
            worst.append(np.abs(centred @ np.linalg.svd(centred, full_matrices=False)[2][1]).max())
        return float(np.median(worst))

    assert deviation("bars") < 1.3
    assert deviation("wires") > 1.8


def test_a_shadow_darkens_beside_the_fence_alone() -> None:
    clean = torch.full((2, 3, 48, 48), 0.8)
    plain = synthesize_fence(clean, ["bars"], generator=generator())
    shaded = synthesize_fence(clean, ["bars"], shadow=0.5, generator=generator())
    assert torch.equal(plain.mask, shaded.mask)
    assert torch.equal(plain.image * plain.mask, shaded.image * shaded.mask)
    beside = shaded.image[(1 - plain.mask).expand_as(clean) > 0]
    assert float(beside.max()) <= 0.8 + 1e-6
    assert float(beside.min()) < 0.7


def test_draws_repeat_with_the_generator_and_mix_the_patterns() -> None:
    clean = pictures(30)
    one, other = (synthesize_fence(clean, ["bars", "nets"], generator=generator(3)) for _ in range(2))
    assert torch.equal(one.image, other.image)
    assert set(one.pattern) == {"bars", "nets"}


def test_mistakes_are_named() -> None:
    clean = pictures(1)
    for images in (clean + 1, clean * torch.nan):
        with pytest.raises(UsageError, match=r"pictures must be in \[0, 1\]"):
            synthesize_fence(images)
    with pytest.raises(UsageError, match="some of lattice, bars"):
        synthesize_fence(clean, [])
    with pytest.raises(UsageError, match="patterns must be one of"):
        synthesize_fence(clean, ["hedge"])
    with pytest.raises(UsageError, match="most width"):
        synthesize_fence(clean, width=(3.0, 1.0))
    with pytest.raises(UsageError, match="shadow"):
        synthesize_fence(clean, shadow=2.0)
