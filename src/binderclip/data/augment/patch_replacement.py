"""Random patch replacement: pictures that are partly real and partly generated, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.uniform import uniform
from binderclip.errors import UsageError

Base = Literal["fake", "real"]


@dataclass(frozen=True)
class Replaced:
    """Mixed pictures.

    Attributes:
        images: (B, 3, H, W).
        patch_labels: (B, h, w) True where a patch is generated.
        labels: (B,) True where at least one patch is.
    """

    images: Float[Tensor, "B 3 H W"]
    patch_labels: Bool[Tensor, "B h w"]
    labels: Bool[Tensor, "B"]


@dataclass(frozen=True)
class RandomPatchReplacement:
    """Replace patches of a picture by those of its aligned copy, so that no place alone says whether it is generated.

    A detector that may look anywhere settles on a few conspicuous patches. Here generated patches lie at random places
    among real ones of the same content, with a label for every patch. Which patches of a picture are replaced depends
    on (seed, its key, the epoch) only.

    Args:
        ratio: share of the patches that are replaced; round(ratio * N) of N, without repetition. Default 0.5.
        patch: side of a patch in pixels; it has to be the tower's, after crop and resize, or patches have two labels.
        base: "fake" starts from the generated copy and puts real patches in; "real" puts generated ones into the real
            picture. The paper's two versions differ in this.
        seed: any integer.

    Raises:
        UsageError: a setting out of range, pictures that are not pairs of one shape, or sides that are no multiples of
            the patch.

    Paper: All Patches Matter, More Patches Better: Enhance AI-Generated Image Detection via Panoptic Patch Learning
    (arXiv 2504.01396).

    Examples:
        >>> real, fake = torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)
        >>> mixed = RandomPatchReplacement(0.25, patch=16)(real, fake, ["a", "b"])
        >>> mixed.patch_labels.sum((1, 2)).tolist()  # generated patches are left of 16
        [12, 12]
    """

    ratio: float = 0.5
    patch: int = 16
    base: Base = "fake"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise UsageError(f"RandomPatchReplacement: ratio is {self.ratio}; it is a share")
        if self.patch < 1 or self.base not in ("fake", "real"):
            raise UsageError(f"RandomPatchReplacement: patch {self.patch} must be 1 or more, base fake or real")

    def replaced(self, keys: Sequence[str], grid: tuple[int, int], epoch: int = 0) -> Bool[Tensor, "B h w"]:
        """Which patches come from the other picture.

        Args:
            keys: of the pictures.
            grid: (h, w) patches.
            epoch: pass over the data.
        """
        cells = grid[0] * grid[1]
        draws = uniform(self.seed, [f"replacement/{key}" for key in keys], epoch, cells)
        rank = np.argsort(np.argsort(draws, axis=1, kind="stable"), axis=1)
        return torch.from_numpy(rank < round(self.ratio * cells)).view(-1, *grid)

    def __call__(
        self, real: Float[Tensor, "B 3 H W"], fake: Float[Tensor, "B 3 H W"], keys: Sequence[str], epoch: int = 0
    ) -> Replaced:
        if real.shape != fake.shape or len(keys) != len(real):
            raise UsageError(
                f"RandomPatchReplacement takes pairs and a key for each: {tuple(real.shape)} real, {tuple(fake.shape)} "
                f"generated, {len(keys)} keys"
            )
        height, width = real.shape[-2:]
        if height % self.patch or width % self.patch:
            raise UsageError(f"{height} x {width} pixels: both sides must be multiples of the patch, {self.patch}")
        swap = self.replaced(keys, (height // self.patch, width // self.patch), epoch).to(real.device)
        generated = ~swap if self.base == "fake" else swap
        pixels = generated.repeat_interleave(self.patch, 1).repeat_interleave(self.patch, 2)
        images = torch.where(pixels[:, None], fake, real)
        return Replaced(images, generated, generated.flatten(1).any(1))
