"""Votes of Gaussians for the labels of 20 views against rendering these views."""

from __future__ import annotations

import math

import torch

from benchmarks.harness import Row, compare
from binderclip.segment import lift_masks, mask_votes
from binderclip.vision import GaussianScene, SplatCamera


def scene_of(count: int) -> GaussianScene:
    """Gaussians in a ball, as small as those of a trained scene of this many."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(count, 3, generator=generator)
    means = means / means.norm(dim=1, keepdim=True) * torch.rand(count, 1, generator=generator) ** (1 / 3)
    size = 0.5 * count ** (-1 / 3)
    return GaussianScene(
        means, size * (0.5 + torch.rand(count, 3, generator=generator)), torch.randn(count, 4, generator=generator),
        0.1 + 0.8 * torch.rand(count, generator=generator), torch.rand(count, 3, generator=generator),
    )  # fmt: skip


def run(*, count: int = 100_000, views: int = 20, side: int = 128, repeats: int = 3) -> list[Row]:
    """One row.

    Args:
        count: Gaussians. views: of `side` pixels. repeats: pairs.
    """
    scene = scene_of(count)
    angles = [2 * math.pi * k / views for k in range(views)]
    cameras = [SplatCamera.looking_at((3 * math.sin(a), 0.5, 3 * math.cos(a)), size=(side, side)) for a in angles]
    masks = [(torch.arange(side) < side // 2).long()[None].expand(side, side) for _ in cameras]

    def render() -> None:
        with torch.no_grad():
            for camera in cameras:
                scene.render(camera)

    return [
        compare(
            f"{count:,} Gaussians, {views} views of {side} px: votes and labels",
            lambda: lift_masks(mask_votes(scene, cameras, masks)),
            render,
            repeats=repeats,
            unit="s",
            speedup=False,
            goal="at most 10x",
            target=10.0,
            peer_name="rendering the views once",
        )
    ]
