"""Frozen features that `OVCamouflage` reads: of a diffusion network that sees a picture once, or of an image tower."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.segment.parts.context import dense_tower, layer_at
from binderclip.segment.trained.tuned import picture_side, squashed

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser

__all__ = ["CamouflageFeatures", "DiffusionFeatures", "TowerFeatures"]


@runtime_checkable
class CamouflageFeatures(Protocol):
    """Frozen maps of pictures.

    Attributes:
        widths: channels of each map.
    """

    widths: tuple[int, ...]

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps E_1, E_2, ..., finest first, and a decoder's map D last, without a graph.

        Args:
            images: in [0, 1].
        """
        ...


class DiffusionFeatures:
    """Maps of a denoiser's U-Net that sees a picture once: the end of each encoder level and of the decoder.

    Each level's map is that of its last residual block (or attention), before the grid is halved. Hooks read the maps
    in one forward; the network stays as it is.

    Args:
        denoiser: over latents, with diffusers' U-Net (`generate.LatentDenoiser`).
        condition: what its cross-attention sees: a text, None or a `generate.Prompt`. The paper's implicit caption, an
            image embedding through a learned map, has to be made into a `Prompt` by the caller.
        t: time, 0 the least noisy.
        noise_seed: of the noise of that time, one draw for all pictures; None adds none, which is not what the network
            was trained on but is exact at t = 0 to within its least noise.

    Raises:
        UsageError: a time beyond the schedule.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505).

    Examples:
        >>> from binderclip.generate import load_denoiser  # doctest: +SKIP
        >>> maps = DiffusionFeatures(load_denoiser("stable-diffusion"))(images)  # doctest: +SKIP
    """

    def __init__(
        self,
        denoiser: LatentDenoiser,
        condition: Hashable = "a photo of a camouflaged object",
        *,
        t: int = 0,
        noise_seed: int | None = None,
    ) -> None:
        check_whole("t", t, least=0)
        if t >= len(denoiser.schedule):
            raise UsageError(f"t must be a time from 0 to {len(denoiser.schedule) - 1}, not {t}")
        self.denoiser, self.condition, self.t, self.noise_seed = denoiser, condition, t, noise_seed
        channels = tuple(denoiser.unet.config.block_out_channels)
        self.widths = (*channels, channels[0])  # the decoder ends where the encoder began

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        denoiser, unet = self.denoiser, self.denoiser.unet
        side = denoiser.side
        weight = next(unet.parameters())
        resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
        latents = denoiser.encode(resized.to(weight))
        if self.noise_seed is not None:
            generator = torch.Generator().manual_seed(self.noise_seed)
            noise = torch.randn(latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        else:
            noise = torch.zeros_like(latents)
        t = torch.full((len(latents),), self.t, device=latents.device)
        maps: list[Tensor] = []

        def encoder(module: Any, _: Any, output: tuple[Tensor, tuple[Tensor, ...]]) -> None:
            maps.append(output[1][len(module.resnets) - 1].float())  # what follows it is the halved grid

        def decoder(_: Any, __: Any, output: Tensor) -> None:
            maps.append(output.float())

        hooks = [block.register_forward_hook(encoder) for block in unet.down_blocks]
        hooks.append(unet.up_blocks[-1].register_forward_hook(decoder))
        try:
            denoiser(denoiser.schedule.add_noise(latents, noise, t), t, (self.condition,))
        finally:
            for hook in hooks:
                hook.remove()
        return maps


class TowerFeatures:
    """Maps of an image tower at several blocks, the last of them in the place of a decoder's: all of one grid.

    Args:
        model: an image-text model.
        layers: which blocks' outputs: indices, negative ones from the end, or shares of the depth; two at least.
        size: side in pixels at which pictures are seen, squashed; default twice the model's.

    Raises:
        UsageError: fewer than two layers, or a size that is no multiple of the patch.
    """

    def __init__(self, model: Any, layers: Sequence[int | float] = (0.5, 0.75, -1), *, size: int | None = None) -> None:
        self.model, tower = model, dense_tower(model)
        self.layers = [layer_at(layer, tower.depth) for layer in layers]
        if len(self.layers) < 2 or self.layers != sorted(set(self.layers)):
            raise UsageError(f"layers must be two different blocks or more, in rising order, got {list(layers)}")
        self.size = picture_side(model, size)
        self.widths = (tower.width,) * len(self.layers)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        tower = dense_tower(self.model)
        tokens = tower.embed(squashed(self.model, images, self.size))
        maps, start = [], 0
        for layer in self.layers:
            tokens, start = tower.run(tokens, start=start, stop=layer + 1), layer + 1
            assert tokens.grid is not None
            maps.append(tower.norm(tokens.patches).mT.unflatten(2, tokens.grid).float())
        return maps
