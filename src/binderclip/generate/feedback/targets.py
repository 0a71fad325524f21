"""What a generator has to make of a picture: pixels, ids of a codebook of patches, or latents of an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["LatentTarget", "PatchCodebook", "PixelTarget"]


class PixelTarget(nn.Module):
    """Pictures of another size, in [-1, 1].

    Args:
        side: in pixels; means over areas where pictures are larger.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        check_whole("side", side, least=1)
        self.side = side

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C {self.side} {self.side}"]:
        """Pictures in [0, 1] to targets."""
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="area")
        return images * 2 - 1


class PatchCodebook(nn.Module):
    """Pictures as ids: each patch is the nearest of K patches, those that k-means finds.

    Args:
        codes: the patches, flattened as (channel, row, column), of pictures in [-1, 1].
        patch: side of a patch.
        side: of the pictures that are cut, in pixels, a multiple of `patch`.

    Raises:
        UsageError: shapes that do not fit together.
    """

    codes: Tensor

    def __init__(self, codes: Float[Tensor, "K D"], patch: int, side: int) -> None:
        super().__init__()
        check_whole("patch", patch, least=1)
        if codes.ndim != 2 or len(codes) < 2 or codes.shape[1] % patch**2:
            raise UsageError(f"codes must be (K, C * {patch}^2) with K at least 2, got {tuple(codes.shape)}")
        if side % patch:
            raise UsageError(f"side = {side} is no multiple of patch = {patch}")
        self.patch, self.pixels = patch, PixelTarget(side)
        self.register_buffer("codes", codes.detach().clone())

    @classmethod
    def fit(
        cls, images: Float[Tensor, "B C H W"], codes: int = 64, *, patch: int = 4, side: int = 32, seed: int = 0
    ) -> PatchCodebook:
        """The codebook of pictures in [0, 1], by scikit-learn's mini-batch k-means.

        Args:
            images: at least as many patches as codes.
            codes: K.
            patch, side: as of the class.
            seed: of k-means.
        """
        from sklearn.cluster import MiniBatchKMeans

        check_whole("codes", codes, least=2)
        check_whole("patch", patch, least=1)
        rows = _cut(PixelTarget(side)(images), patch).flatten(0, 1).cpu()
        if len(rows) < codes:
            raise UsageError(f"{len(rows)} patches are fewer than codes = {codes}")
        means = MiniBatchKMeans(codes, random_state=seed, n_init=1).fit(rows.numpy())
        return cls(torch.from_numpy(means.cluster_centers_).to(images), patch, side)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """Pictures in [0, 1] to ids, row by row."""
        return torch.cdist(_cut(self.pixels(images), self.patch), self.codes.to(images.dtype)).argmin(2)

    def decode(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B C H W"]:
        """Ids to pictures in [0, 1]."""
        side = self.pixels.side
        patches = self.codes[ids]  # (B, L, D)
        return (F.fold(patches.mT, (side, side), self.patch, stride=self.patch) + 1) / 2


class LatentTarget(nn.Module):
    """Latents of a frozen autoencoder with diffusers' interface: `(z - shift) * scale`.

    Args:
        autoencoder: an `AutoencoderKL`; its weights are switched to no gradients.
        scale: Stable Diffusion's 0.18215 by default; Flux's is 0.3611.
        shift: Stable Diffusion's 0 by default; Flux's is 0.1159.
        draw: whether z is a draw of the posterior, as in GenHancer, or its mean, as in DIVA.

    Raises:
        UsageError: an autoencoder without `encode`, or numbers that are not finite.
    """

    def __init__(
        self, autoencoder: nn.Module, *, scale: float = 0.18215, shift: float = 0.0, draw: bool = False
    ) -> None:
        super().__init__()
        if not hasattr(autoencoder, "encode"):
            raise UsageError(f"{type(autoencoder).__name__} has no encode: give an AutoencoderKL of diffusers")
        check_number("scale", scale, above=0)
        check_number("shift", shift)
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.scale, self.shift, self.draw = scale, shift, draw

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Pictures in [0, 1] to latents."""
        encoder: Any = self.autoencoder
        posterior = encoder.encode(images * 2 - 1).latent_dist
        latent = posterior.sample() if self.draw else posterior.mode()
        return (latent - self.shift) * self.scale


def _cut(images: Float[Tensor, "B C H W"], patch: int) -> Float[Tensor, "B L D"]:
    """Patches row by row, each flattened as (channel, row, column)."""
    return F.unfold(images, patch, stride=patch).mT
