"""A small vector-quantised autoencoder, and its folders: the bundled `small-vq`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import replace_grad
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import bundled_of, read_folder, write_folder
from binderclip.numeric import check_whole

__all__ = ["VQAutoencoder", "load_vq_autoencoder", "save_vq_autoencoder"]

KIND = "vq-autoencoder"
BUNDLED = "small-vq"
"""The autoencoder that is shipped, trained on drawings and photographs of 64 px."""
_PIXELS = 4  # of a code: one unshuffle by 2 and one convolution of stride 2


@dataclass(frozen=True)
class _Quantised:
    """The codes themselves [B, e, h, w], with the gradient of the latent, and their rows [B, h, w] in the codebook."""

    values: Tensor
    rows: Tensor


class VQAutoencoder(nn.Module):
    """Pictures to grids of codes and back, a code for 4 x 4 pixels; it goes where `VQLatent` takes an autoencoder.

    Convolutions without normalisation, so that a code changes nothing but its neighbourhood, and sides may be any
    multiple of 4. Half of a picture's pixels go through the wide layers at a quarter of the side.

    Args:
        codes: K, rows of the codebook.
        channels: e, numbers of a code.
        widths: channels at half and at a quarter of the side; half of the first at the full side.
        blocks: residual blocks at a quarter of the side, of encoder and decoder.

    Raises:
        UsageError: a setting out of range.

    Paper: Neural Discrete Representation Learning (arXiv 1711.00937); the form of VQGAN-CLIP's small stand-in.

    Examples:
        >>> model = VQAutoencoder(codes=16, channels=4, widths=(8, 8), blocks=(1, 1))
        >>> latent = model.encode(torch.zeros(1, 3, 16, 24))
        >>> latent.shape, model.decode(model.quantise(latent).values).shape
        (torch.Size([1, 4, 4, 6]), torch.Size([1, 3, 16, 24]))
    """

    def __init__(
        self,
        codes: int = 512,
        channels: int = 16,
        widths: Sequence[int] = (48, 96),
        blocks: Sequence[int] = (1, 2),
    ) -> None:
        super().__init__()
        for name, value in (("codes", codes), ("channels", channels), ("blocks", min(blocks))):
            check_whole(name, value, least=1)
        check_whole("widths", min(widths), least=2)
        self.settings = {"codes": codes, "channels": channels, "widths": list(widths), "blocks": list(blocks)}
        half, quarter = widths
        self.quantize = _Codebook(codes, channels)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),  # (B, 12, H/2, W/2)
            nn.Conv2d(12, half, 3, padding=1),
            _ConvResidual(half),
            nn.Conv2d(half, quarter, 4, stride=2, padding=1),
            *(_ConvResidual(quarter) for _ in range(blocks[0])),
            nn.Conv2d(quarter, channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, quarter, 3, padding=1),
            *(_ConvResidual(quarter) for _ in range(blocks[1])),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(quarter, half, 3, padding=1),
            _ConvResidual(half),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(half, half // 2, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(half // 2, 3, 3, padding=1),
        )

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B e h w"]:
        """The latent of pictures in [-1, 1], before it is rounded; h = H / 4.

        Raises:
            UsageError: sides that are no multiples of 4.
        """
        if images.ndim != 4 or images.shape[1] != 3 or any(side % _PIXELS or not side for side in images.shape[2:]):
            raise UsageError(f"images must be (B, 3, H, W) with sides in multiples of 4, got {tuple(images.shape)}")
        return self.encoder(images)

    def quantise(self, latent: Float[Tensor, "B e h w"]) -> _Quantised:
        """Round each place to the nearest code, with the gradient straight through: `values`, and their `rows`."""
        table = self.quantize.embedding.weight
        rows = self.nearest(latent)
        return _Quantised(replace_grad(table[rows].permute(0, 3, 1, 2), latent), rows)

    @torch.no_grad()
    def nearest(self, latent: Float[Tensor, "B e h w"]) -> Int[Tensor, "B h w"]:
        """The row of the nearest code of each place."""
        table = self.quantize.embedding.weight
        places = latent.permute(0, 2, 3, 1)  # (B, h, w, e)
        # |z - c|^2 less |z|^2, which is the same for all codes
        return (table.square().sum(1) - 2 * places @ table.T).argmin(-1)

    def decode(self, codes: Float[Tensor, "B e h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures, about in [-1, 1], of codes as they are: they are not rounded once more."""
        return self.decoder(codes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Encoded, rounded and decoded; both sides in [-1, 1]."""
        return self.decode(self.quantise(self.encode(images)).values)


class _Codebook(nn.Module):
    """Holds the codes where diffusers' and taming's quantisers do."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)


class _ConvResidual(nn.Module):
    """Two convolutions beside the identity; the second starts at zero, so that depth costs no stability."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.second(F.silu(self.first(F.silu(x))))


def save_vq_autoencoder(
    model: VQAutoencoder, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float16"
) -> Path:
    """Write an autoencoder into a folder that `load_vq_autoencoder` takes.

    Args:
        model: its network and codebook are written.
        folder: is made where it is missing.
        card: recipe, data and figures, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".

    Raises:
        UsageError: `folder` is a file, or an unknown precision.
        OutputError: it cannot be written.
    """
    config = {"network": model.settings}
    return write_folder(folder, kind=KIND, config=config, state=model.state_dict(), card=card or {}, dtype=dtype)


def load_vq_autoencoder(source: str | Path = BUNDLED) -> VQAutoencoder:
    """Read a folder that `save_vq_autoencoder` wrote, or the bundled `small-vq`; in eval mode, its weights frozen.

    Args:
        source: a folder, or "small-vq".

    Raises:
        UsageError: no such name or folder.
        CheckpointError: another kind of model, or damaged weights.
    """
    bundled = bundled_of(KIND)
    folder = bundled.get(str(source), Path(source))
    if not folder.is_dir():
        raise UsageError(f"there is no autoencoder or folder {str(source)!r}; bundled: {', '.join(bundled) or 'none'}")
    read = read_folder(folder, KIND)
    model = configured(lambda: VQAutoencoder(**read.config["network"]), folder)
    guarded(lambda: model.load_state_dict(read.state), folder, "this version")
    return model.eval().requires_grad_(False)
