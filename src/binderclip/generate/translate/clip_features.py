"""What a frozen CLIP tower answers on its way: for discriminators, and as a part of a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_whole

__all__ = ["CLIPMapper", "CLIPPatchFeatures"]

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PARTS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "ln_post", "proj", "transformer", "image_size")


class _FrozenTower(nn.Module):
    """A tower that is used and neither trained nor saved: it stays where its own model puts it."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        if any(not hasattr(visual, part) for part in PARTS) or not getattr(visual.transformer, "batch_first", False):
            raise NotSupported("this needs open_clip's plain vision transformer, such as the visual of ViT-B-32")
        tower: Any = visual.requires_grad_(False).eval()
        self._tower = (tower,)  # in a tuple it is no submodule
        self.size = int(tower.image_size[0] if isinstance(tower.image_size, tuple) else tower.image_size)
        self.grid = math.isqrt(tower.positional_embedding.shape[0] - 1)
        self.width, self.depth = int(tower.positional_embedding.shape[1]), len(tower.transformer.resblocks)

    @property
    def visual(self) -> Any:
        """The tower."""
        return self._tower[0]

    def start(self, patches: Tensor) -> Tensor:
        """Tokens before the first block from a map of patches [B, D, g, g], the class token first."""
        tokens = patches.flatten(2).mT  # (B, g g, D)
        first = self.visual.class_embedding.to(tokens).expand(len(tokens), 1, -1)
        return self.visual.ln_pre(torch.cat([first, tokens], 1) + self.visual.positional_embedding)

    def as_map(self, tokens: Tensor) -> Tensor:
        """Patch tokens as a map [B, D, g, g]."""
        return tokens[:, 1:].mT.unflatten(2, (self.grid, self.grid))


class CLIPPatchFeatures(_FrozenTower):
    """Patch features of pictures after chosen blocks of a frozen CLIP tower, and their embeddings.

    Pictures are in [-1, 1], of any size: they are resized by nearest neighbours. The released code maps them to [0, 1]
    twice before CLIP's normalisation; here it is done once.

    Args:
        visual: open_clip's vision transformer; its parameters are frozen and it is put into evaluation mode.
        taps: blocks, from 0; default 1, 4 and 8 of twelve, and as deep in other towers.

    Raises:
        NotSupported: another kind of tower.
        UsageError: a tap that is no block.

    Paper: GALIP: Generative Adversarial CLIPs for Text-to-Image Synthesis (arXiv 2301.12959).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: nn.Module, taps: Sequence[int] | None = None) -> None:
        super().__init__(visual)
        self.taps = tuple(self.depth * tap // 12 for tap in (1, 4, 8)) if taps is None else tuple(taps)
        if not self.taps or any(not 0 <= tap < self.depth for tap in self.taps):
            raise UsageError(f"taps must be blocks 0 to {self.depth - 1}, got {self.taps}")
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B T D g g"], Float[Tensor, "B E"]]:
        """Features of every tap, and embeddings, not normalised."""
        resized = F.interpolate(images, size=(self.size, self.size))
        x = self.start(self.visual.conv1(((resized + 1) / 2 - self.mean) / self.std))
        maps = []
        for number, block in enumerate(self.visual.transformer.resblocks):
            x = block(x)
            if number in self.taps:
                maps.append(self.as_map(x))
        return torch.stack(maps, 1), self.visual.ln_post(x[:, 0]) @ self.visual.proj


class CLIPMapper(_FrozenTower):
    """A map of made-up patch features through the blocks of a frozen CLIP tower, steered by prompt tokens.

    At each of its blocks a prompt is the last token, and is dropped after the block. The final norm is left out.

    Args:
        visual: open_clip's vision transformer; it is frozen as in `CLIPPatchFeatures`.
        prompts: blocks with a prompt, from block 1 on; default two thirds of the blocks, 8 of twelve.

    Raises:
        NotSupported: another kind of tower.
        UsageError: more prompts than blocks after the first.
    """

    def __init__(self, visual: nn.Module, prompts: int | None = None) -> None:
        super().__init__(visual)
        self.prompts = min(-(-2 * self.depth // 3), self.depth - 1) if prompts is None else prompts
        check_whole("prompts", self.prompts, least=0)
        if self.prompts > self.depth - 1:
            raise UsageError(f"prompts must be at most {self.depth - 1} in a tower of {self.depth}, got {prompts}")

    def forward(self, patches: Float[Tensor, "B D g g"], prompts: Float[Tensor, "B P D"]) -> Float[Tensor, "B D g g"]:
        """Patch tokens after the last block."""
        x = self.start(patches)
        for number, block in enumerate(self.visual.transformer.resblocks):
            if 1 <= number <= self.prompts:
                x = block(torch.cat([x, prompts[:, number - 1, None]], 1))[:, :-1]
            else:
                x = block(x)
        return self.as_map(x)
