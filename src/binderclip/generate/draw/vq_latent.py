"""Pictures as grids of codes that a vector-quantised autoencoder decodes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import clamp_with_grad, replace_grad
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number, check_whole

__all__ = ["VQLatent"]


class VQLatent(Parametrisation):
    """A picture decoded from a latent grid, every place of which is rounded to the nearest code of a codebook.

    Gradients go through the rounding as if it was not there, and pass the ends of the colour range where they lead
    back. After each step every channel of the latent is clamped to the range that it has in the codebook.

    Args:
        autoencoder: has `quantize`, a module with the codebook as its `embedding` (or `embed`), and `decode`, from
            codes (B, e, h, w) to pictures in [-1, 1], as a tensor or in `.sample`: diffusers' `VQModel`, or a model of
            taming-transformers. It is frozen and in eval mode while it decodes, and is no part of this module: move
            it to its device first.
        latent: grid to start with, e channels.
        lr: of the latent.

    Raises:
        UsageError: no such autoencoder, or a latent of another width or not finite, or lr out of range.

    Paper: VQGAN-CLIP: Open Domain Image Generation and Editing with Natural Language Guidance (arXiv 2204.08583).

    Examples:
        >>> from diffusers import VQModel
        >>> model = VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=16, latent_channels=4)
        >>> picture = VQLatent.random(model, (16, 24))
        >>> picture().shape, picture.codes().shape
        (torch.Size([1, 3, 16, 24]), torch.Size([1, 16, 24]))
    """

    def __init__(self, autoencoder: nn.Module, latent: Float[Tensor, "B e h w"], *, lr: float = 0.1) -> None:
        super().__init__()
        check_number("lr", lr, above=0)
        codebook = _codebook(autoencoder)
        if latent.ndim != 4 or latent.shape[1] != codebook.shape[1] or not latent.numel():
            raise UsageError(f"latent must be (B, {codebook.shape[1]}, h, w), got {tuple(latent.shape)}")
        if not bool(latent.isfinite().all()):
            raise UsageError("latent must be finite")
        self._autoencoder = (autoencoder,)  # in a tuple, so that its weights are no parameters of the picture
        self.latent = nn.Parameter(latent.detach().to(codebook).clone())
        self.lr = lr

    @classmethod
    def random(cls, autoencoder: nn.Module, size: tuple[int, int], *, seed: int = 0, lr: float = 0.1) -> VQLatent:
        """Codes drawn uniformly from the codebook.

        Args:
            autoencoder: as for the class.
            size: (H, W) of the picture in pixels, multiples of the pixels of a code.
            seed: of the codes.
            lr: of the latent.

        Raises:
            UsageError: a size that is no multiple.
        """
        check_whole("seed", seed)
        codebook = _codebook(autoencoder)
        height, width = _grid(autoencoder, size)
        codes = torch.randint(len(codebook), (1, height, width), generator=torch.Generator().manual_seed(seed))
        return cls(autoencoder, codebook[codes.to(codebook.device)].permute(0, 3, 1, 2), lr=lr)

    @classmethod
    def encoded(
        cls, autoencoder: nn.Module, images: Float[Tensor, "3 H W"] | Float[Tensor, "B 3 H W"], *, lr: float = 0.1
    ) -> VQLatent:
        """The latent of pictures, to edit them; the autoencoder needs `encode` too, and takes pictures in [-1, 1].

        Args:
            autoencoder: as for the class.
            images: in [0, 1]; sides are multiples of the pixels of a code.
            lr: of the latent.

        Raises:
            UsageError: no pictures, or sides that are no multiples.
        """
        if images.ndim not in (3, 4) or images.shape[-3] != 3 or not images.numel():
            raise UsageError(f"images must be (3, H, W) or (B, 3, H, W), got {tuple(images.shape)}")
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise UsageError("images must lie in [0, 1] and be finite")
        encode = getattr(autoencoder, "encode", None)
        if encode is None:
            raise UsageError("the autoencoder has no encode: start from VQLatent.random or a latent")
        pixels = images if images.ndim == 4 else images[None]
        _grid(autoencoder, (pixels.shape[2], pixels.shape[3]))
        with torch.no_grad(), frozen(autoencoder):
            output: Any = encode(pixels.to(_codebook(autoencoder)) * 2 - 1)
        latent: Tensor = output[0] if isinstance(output, tuple) else getattr(output, "latents", output)
        return cls(autoencoder, latent, lr=lr)

    @property
    def autoencoder(self) -> nn.Module:
        """Decodes."""
        return self._autoencoder[0]

    def forward(self) -> Float[Tensor, "B 3 H W"]:
        """The decoded pictures."""
        return clamp_with_grad((_decode(self.autoencoder, self.quantised()) + 1) / 2, 0.0, 1.0)

    def quantised(self) -> Float[Tensor, "B e h w"]:
        """The codes themselves, with the gradient of the latent (straight through)."""
        return replace_grad(_codebook(self.autoencoder)[self.codes()].permute(0, 3, 1, 2), self.latent)

    @torch.no_grad()
    def codes(self) -> Int[Tensor, "B h w"]:
        """Rows of the codebook: the nearest of each place."""
        batch, width, *grid = self.latent.shape
        places = self.latent.permute(0, 2, 3, 1).reshape(-1, width)
        return torch.cdist(places, _codebook(self.autoencoder)).argmin(1).reshape(batch, *grid)

    def groups(self) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": [self.latent], "lr": self.lr}]

    @torch.no_grad()
    def project_(self) -> None:
        """Clamp each channel to its range in the codebook."""
        low, high = _codebook(self.autoencoder).aminmax(dim=0)
        self.latent.copy_(self.latent.maximum(low[:, None, None]).minimum(high[:, None, None]))


def _codebook(autoencoder: nn.Module) -> Float[Tensor, "K e"]:
    quantize = getattr(autoencoder, "quantize", None)
    table = getattr(quantize, "embedding", getattr(quantize, "embed", None))
    weight = getattr(table, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not hasattr(autoencoder, "decode"):
        raise UsageError("autoencoder needs decode, and quantize.embedding with the codebook (K, e)")
    return weight.detach()


def _decode(autoencoder: nn.Module, codes: Float[Tensor, "B e h w"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures in [-1, 1]. diffusers quantises once more, which leaves codes and their gradient as they are."""
    decode: Any = autoencoder.decode
    with frozen(autoencoder):
        output = decode(codes)
    return getattr(output, "sample", output)


def _grid(autoencoder: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the codes of a picture; what a code is in pixels is seen by decoding four."""
    with torch.no_grad():
        four = _codebook(autoencoder)[:1, :, None, None].expand(1, -1, 2, 2)
        side = _decode(autoencoder, four).shape[-1] // 2
    for name, length in zip(("height", "width"), size, strict=True):
        check_whole(name, length, least=side)
        if length % side:
            raise UsageError(f"{name} = {length} must be a multiple of {side}, the pixels of a code")
    return size[0] // side, size[1] // side
