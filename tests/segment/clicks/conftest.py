"""Segmenters whose answers are known."""

from __future__ import annotations

import pytest
import torch

from binderclip.segment.promptable import ImageState, Masks


class Disks:
    """A disk of radius 6 around every inside click, none around outside ones; soft edges, so clicks have gradients."""

    image_size, differentiable, encoded, asked = 60, True, 0, 0

    def encode(self, image):
        self.encoded += 1
        return ImageState(None, tuple(image.shape[-2:]), (1.0, 1.0))

    def predict(self, state, prompts, *, multimask=True):
        self.asked += 1
        height, width = state.size
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
        px, py = (prompts.points[..., i, None, None] for i in (0, 1))
        logits = 6 - ((y - py) ** 2 + (x - px) ** 2 + 1e-6).sqrt()
        logits = torch.where((prompts.labels == 1)[..., None, None], logits, -99.0).amax(1, keepdim=True)
        return Masks(logits, torch.ones(len(prompts), 1), logits)


class Deaf(Disks):
    """The same mask whatever is clicked."""

    def predict(self, state, prompts, *, multimask=True):
        logits = torch.full((len(prompts), 1, *state.size), -5.0)
        logits[..., :20, :30] = 5
        logits = logits + 0 * prompts.points.sum()
        return Masks(logits, torch.ones(len(prompts), 1), logits)


@pytest.fixture
def disks() -> Disks:
    return Disks()


@pytest.fixture
def deaf() -> Deaf:
    return Deaf()
