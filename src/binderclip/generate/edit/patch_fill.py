"""Fills a hole of a picture with patches that occur elsewhere in it, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.biharmonic import check_known
from binderclip.generate.edit.patch_search import EPS, PatchLevel, peel, search_patches, vote_pixels
from binderclip.generate.edit.seamless import join_slopes
from binderclip.vision import dilate

__all__ = ["patch_fill"]

LEAST_SIDE = 20
"""Pixels of the shorter side below which no picture is halved."""
SEARCHED, AREA = 40_000, 400_000
"""Patches that a level looks for, and its pixels, at most; finer levels take over the offsets of the one before."""
ROUNDS, FINE_ROUNDS, FEW = 10, 4, 4_000
"""Of search and vote at a level, up to `FEW` patches and above: finer levels start from what is nearly right."""
SETTLED = 2e-3
"""Mean absolute change of a hole, of a range of 1, at which the rounds of a level end."""
BLUR = 17
"""Pixels over which texture, the mean absolute difference to the next pixel, is taken, at most."""
KNOWN = 0.999
"""Share of a place that is known, from which it counts as known at half the size."""


def patch_fill(
    images: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    *,
    patch: int = 7,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """Fill what is masked so that every patch over it is alike one of what is known: texture goes on as texture.

    From coarse to fine, in turn: the nearest known patch of each patch over the hole is looked for, by the neighbours'
    offsets and at random, and each hidden pixel becomes the mean of what these patches say of it. At last the colours
    are fitted to the patches' differences, so that none of them has a seam. Pixels outside of the mask stay, and
    nothing of those inside is looked at. A picture that is masked everywhere, or so that no patch is known, is refused.
    Not differentiable.

    Args:
        images: in [0, 1].
        mask: above 0 where to fill.
        patch: side of the patches in pixels, odd, at least 3.
        seed: of the random search.
        progress: called with the comparisons done and those of all; levels that settle earlier skip some.

    Raises:
        UsageError: a mask that does not match, a value that is not finite or outside of [0, 1] where it is known, an
            even patch, or no patch of which all is known.

    Papers: Space-time completion of video (Wexler, Shechtman and Irani, 2007); PatchMatch (Barnes et al., 2009); Video
    inpainting of complex scenes (arXiv 1503.05528), whose features of texture and votes these are.

    Examples:
        >>> import torch
        >>> stripes = (torch.arange(48) // 4 % 2).float().expand(1, 3, 48, 48)
        >>> mask = torch.zeros(1, 1, 48, 48)
        >>> mask[..., 18:30, 18:30] = 1
        >>> bool((patch_fill(stripes * (1 - mask), mask) - stripes).abs().max() < 0.05)
        True
    """
    if images.ndim != 4 or images.shape[1] != 3 or mask.shape != (len(images), 1, *images.shape[2:]):
        raise UsageError(f"{tuple(images.shape)} and {tuple(mask.shape)} must be (B, 3, H, W) and (B, 1, H, W)")
    if patch < 3 or patch % 2 == 0:
        raise UsageError(f"patch must be odd and at least 3, got {patch}")
    check_known(images, mask)
    known = images.masked_fill(mask > 0, 0)  # (B, 3, H, W)
    if len(images) and (float(known.min()) < 0 or float(known.max()) > 1):
        raise UsageError(f"images must be in [0, 1], got {float(known.min()):g} to {float(known.max()):g}")
    result = known.detach()
    for image, hole in zip(result, (mask[:, 0] > 0).cpu(), strict=True):
        if bool(hole.any()):
            filled = _filled(image.cpu().float(), hole, patch, torch.Generator().manual_seed(seed), progress)
            image[:, hole.to(image.device)] = filled[:, hole].to(image)
    return result


def _filled(
    image: Float[Tensor, "3 H W"],
    hole: Bool[Tensor, "H W"],
    patch: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "3 H W"]:
    levels = _pyramid(image, hole, patch)
    work = [_rounds(level, first=level is levels[0]) * len(level.targets) for level in levels]
    nearest = peel(levels[0], patch)
    distances = torch.ones(len(nearest))
    for position, level in enumerate(levels):
        if position:
            nearest = _finer(levels[position - 1], level, nearest, generator)
            distances = torch.ones(len(nearest))
            vote_pixels(level, nearest, distances, patch)
        for turn in range(_rounds(level, first=position == 0)):
            former = level.values[:3, level.hole]
            nearest, distances = search_patches(level, nearest, patch, generator)
            vote_pixels(level, nearest, distances, patch)
            if progress is not None:
                progress(sum(work[:position]) + (turn + 1) * len(level.targets), sum(work))
            if float((level.values[:3, level.hole] - former).abs().mean()) < SETTLED:
                break
    return join_slopes(
        image * ~hole + levels[-1].values[:3] * hole, hole, vote_pixels(levels[-1], nearest, distances, patch)
    )


def _rounds(level: PatchLevel, *, first: bool) -> int:
    """Of search and vote."""
    count = len(level.targets)
    if first or (count <= FEW and level.hole.numel() <= AREA):
        return ROUNDS
    return FINE_ROUNDS if count <= SEARCHED and level.hole.numel() <= AREA else 0


def _pyramid(image: Float[Tensor, "3 H W"], hole: Bool[Tensor, "H W"], patch: int) -> list[PatchLevel]:
    """Sizes from coarse to fine, each half of the next; only those where some patches are known."""
    known = (~hole).float()[None, None]
    colour = torch.where(hole, 0, image)[None]
    halvings = 0
    while min(hole.shape) >> (halvings + 1) >= LEAST_SIDE:
        halvings += 1
    values = torch.cat([colour, _texture(colour, known, min(2 ** max(1, halvings) + 1, BLUR))], 1)
    levels: list[PatchLevel] = []
    for _ in range(halvings + 1):
        level = _level(values[0], known[0, 0] < 1, patch)
        if level is None:
            break
        levels.append(level)
        share = F.avg_pool2d(known, 2, ceil_mode=True)
        values = F.avg_pool2d(values * known, 2, ceil_mode=True) / share.clamp(min=EPS)
        known = (share > KNOWN).float()
        values = values * known
    if not levels:
        raise UsageError(f"nowhere in the picture are {patch} x {patch} px known: the hole leaves no patch to go by")
    return levels[::-1]


def _texture(colour: Float[Tensor, "1 3 H W"], known: Float[Tensor, "1 1 H W"], size: int) -> Float[Tensor, "1 2 H W"]:
    """Mean absolute differences to the next pixel, across and down, over squares of `size` px of what is known."""
    across = (colour[..., 1:] - colour[..., :-1]).abs().mean(1, keepdim=True) * known[..., 1:] * known[..., :-1]
    down = (colour[..., 1:, :] - colour[..., :-1, :]).abs().mean(1, keepdim=True)
    down = down * known[..., 1:, :] * known[..., :-1, :]
    slopes = torch.cat([F.pad(across, (0, 1)), F.pad(down, (0, 0, 0, 1))], 1)
    total, weight = (F.avg_pool2d(x, size, 1, size // 2, count_include_pad=False) for x in (slopes, known))
    return total / weight.clamp(min=EPS) * known


def _level(values: Float[Tensor, "5 H W"], hole: Bool[Tensor, "H W"], patch: int) -> PatchLevel | None:
    """A level, None where too few patches are known."""
    reach = patch // 2
    near = dilate(hole, patch)
    sources = ~near
    sources[:reach] = sources[-reach:] = False
    sources[:, :reach] = sources[:, -reach:] = False
    if int(sources.sum()) < patch * patch:
        return None
    return PatchLevel(values.clone(), hole, near.flatten().nonzero()[:, 0], sources)


def _anywhere(level: PatchLevel, generator: torch.Generator) -> Int[Tensor, " T"]:
    """A source of each target, at random."""
    usable = level.sources.flatten().nonzero()[:, 0]
    return usable[torch.randint(len(usable), level.targets.shape, generator=generator)]


def _finer(
    coarse: PatchLevel, fine: PatchLevel, nearest: Int[Tensor, " T"], generator: torch.Generator
) -> Int[Tensor, " t"]:
    """Sources by twice the offsets of the level before; at random where these are none."""
    (rows, columns), (height, width) = coarse.hole.shape, fine.hole.shape
    source_of = torch.full((rows * columns,), -1)
    source_of[coarse.targets] = nearest
    y, x = fine.targets // width, fine.targets % width
    source = source_of[(y // 2).clamp(max=rows - 1) * columns + (x // 2).clamp(max=columns - 1)]
    row = (2 * (source // columns) + y % 2).clamp(0, height - 1)
    column = (2 * (source % columns) + x % 2).clamp(0, width - 1)
    candidate = row * width + column
    usable = (source >= 0) & fine.sources.flatten()[candidate]
    return torch.where(usable, candidate, _anywhere(fine, generator))
