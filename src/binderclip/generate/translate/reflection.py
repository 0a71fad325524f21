"""Reflection removal that a user guides: marked regions are the anchors by which two layers are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.translate.guidance_mask import anchor_masks
from binderclip.generate.translate.naf_blocks import NAFBlock
from binderclip.losses.restoration.differences import exclusion_loss, gradient_l1
from binderclip.losses.restoration.structure import ssim_loss
from binderclip.numeric import check_number, check_whole

__all__ = ["PromptBlock", "ReflectionLayers", "ReflectionRemover", "reflection_losses"]


@dataclass(frozen=True)
class ReflectionLayers:
    """The two layers of pictures through glass; not clamped.

    Attributes:
        transmission: what lies behind the glass.
        reflection: what is mirrored in it.
    """

    transmission: Float[Tensor, "B 3 H W"]
    reflection: Float[Tensor, "B 3 H W"]


class PromptBlock(nn.Module):
    """Attention whose queries come from marked places alone, and whose keys and values come from everywhere.

    `Y = LN(Wo attention(Wq (X m), Wk X, Wv X) + X)`, `Z = LN(FFN(Y) + Y)`, for tokens X and a mask m. Logits are scaled
    by the whole width, C^-0.5, as released, not by that of a head. Places that are not marked ask with the bias alone,
    all the same question.

    Args:
        channels: C of the map.
        heads: that divide C.
        hidden: width of the feed-forward layer.
        dropout: of attention and feed-forward layer, in [0, 1).

    Raises:
        UsageError: a setting out of range.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).
    """

    def __init__(self, channels: int, *, heads: int = 8, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        for name, number in (("channels", channels), ("heads", heads), ("hidden", hidden)):
            check_whole(name, number, least=1)
        check_number("dropout", dropout, least=0, below=1)
        if channels % heads:
            raise UsageError(f"heads must divide {channels} channels, got {heads}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )

    def forward(self, x: Float[Tensor, "B C H W"], marked: Bool[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
        """The map, with what was asked for at the marked places.

        Args:
            x: a map.
            marked: its places that are known.
        """
        tokens = x.flatten(2).transpose(1, 2)  # [B, N, C]
        asking = tokens * marked.flatten(2).transpose(1, 2)
        q, k, v = (
            layer(rows).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, N, C / heads]
            for layer, rows in ((self.query, asking), (self.key, tokens), (self.value, tokens))
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=x.shape[1] ** -0.5)
        y = self.norm1(self.out(attended.transpose(1, 2).flatten(2)) + tokens)
        return self.norm2(self.feed(y) + y).transpose(1, 2).reshape(x.shape)


class ReflectionRemover(nn.Module):
    """Splits pictures into transmission and reflection, guided by a contrastive mask.

    A U-Net of NAF blocks reads the picture and the mask. At the bottleneck two prompt blocks of their own weights ask
    from the places that are marked as transmitted, and from those marked as reflected; both maps then go through the
    same middle blocks and the same decoder, with the encoder's skips added.

    Args:
        width: channels at full size; they double at each halving. 64 as published.
        encoder_blocks: NAF blocks of each level; (2, 2, 2, 18) as published.
        middle_blocks: at the bottleneck.
        decoder_blocks: of each level, from the coarsest; (2, 2, 2, 4) as published.
        heads: of the prompt blocks; 8 as published.
        hidden: width of their feed-forward layers.
        dropout: in them.
        coverage: of `anchor_masks`: which cells of the bottleneck count as marked. None is the published rule, for
            pictures of 224 pixels and more.

    Raises:
        UsageError: a number out of range.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).

    Examples:
        >>> import torch
        >>> remover = ReflectionRemover(8, encoder_blocks=(1, 1), decoder_blocks=(1, 1), heads=4, coverage=0.5).eval()
        >>> layers = remover(torch.rand(1, 3, 30, 34), torch.zeros(1, 1, 30, 34))
        >>> layers.transmission.shape
        torch.Size([1, 3, 30, 34])
    """

    def __init__(
        self,
        width: int = 64,
        *,
        encoder_blocks: Sequence[int] = (2, 2, 2, 18),
        middle_blocks: int = 1,
        decoder_blocks: Sequence[int] = (2, 2, 2, 4),
        heads: int = 8,
        hidden: int = 256,
        dropout: float = 0.1,
        coverage: float | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("width", width), *(("blocks", n) for n in (*encoder_blocks, *decoder_blocks))):
            check_whole(name, number, least=1)
        check_whole("middle_blocks", middle_blocks, least=0)
        if coverage is not None:
            check_number("coverage", coverage, least=0, below=1)
        if len(encoder_blocks) != len(decoder_blocks) or not encoder_blocks:
            raise UsageError(f"as many levels up as down: {len(encoder_blocks)} and {len(decoder_blocks)}")
        self.coverage, self.levels = coverage, len(encoder_blocks)
        widths = [width * 2**level for level in range(self.levels + 1)]
        self.first, self.last = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(c, n) for c, n in zip(widths, encoder_blocks, strict=False))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in widths[:-1])
        self.ask_transmission, self.ask_reflection = (
            PromptBlock(widths[-1], heads=heads, hidden=hidden, dropout=dropout) for _ in range(2)
        )
        self.middle = _blocks(widths[-1], middle_blocks)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)) for c in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(_blocks(c, n) for c, n in zip(widths[-2::-1], decoder_blocks, strict=True))

    def forward(self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> ReflectionLayers:
        """Both layers.

        Args:
            images: pictures in [0, 1] of any size; they are padded with black to a multiple of 2^levels.
            mask: of `contrastive_mask`; zeros where nothing is known.

        Raises:
            UsageError: a picture and a mask that do not match.
        """
        if images.ndim != 4 or images.shape[1] != 3 or mask.shape != (len(images), 1, *images.shape[2:]):
            raise UsageError(f"{tuple(images.shape)} and {tuple(mask.shape)} must be (B, 3, H, W) and (B, 1, H, W)")
        height, width = images.shape[-2:]
        unit = 2**self.levels
        padded = F.pad(torch.cat([images, mask], 1), (0, -width % unit, 0, -height % unit))
        x, skips = self.first(padded), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        behind, mirror = anchor_masks(padded[:, 3:], (x.shape[2], x.shape[3]), coverage=self.coverage)
        # Middle and decoder are shared: both layers go through them as one batch.
        x = self.middle(torch.cat([self.ask_transmission(x, behind), self.ask_reflection(x, mirror)]))
        for decoder, up, skip in zip(self.decoders, self.ups, skips[::-1], strict=True):
            x = decoder(up(x) + skip.repeat(2, 1, 1, 1))
        return ReflectionLayers(*self.last(x)[..., :height, :width].chunk(2))


def reflection_losses(
    layers: ReflectionLayers,
    transmission: Float[Tensor, "B 3 H W"],
    reflection: Float[Tensor, "B 3 H W"],
    *,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """What `ReflectionRemover` is trained by, weighted as published; their sum is the loss.

    `transmission` and `reflection`: 0.3 squared error + 0.6 gradient error; `ssim` 1 - SSIM of the transmission;
    `exclusion` of the two predicted layers; `perceptual` 0.01 of the transmission's.

    Args:
        layers: predicted.
        transmission, reflection: the true layers.
        perceptual: a distance of pictures; VGG-19's features as published, none by default.

    Raises:
        UsageError: pictures of different shapes, or smaller than 8 pixels.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).
    """
    pairs = {
        "transmission": (layers.transmission, transmission),
        "reflection": (layers.reflection, reflection),
    }
    losses = {name: 0.6 * gradient_l1(x, y) + 0.3 * F.mse_loss(x, y) for name, (x, y) in pairs.items()}
    losses["ssim"] = ssim_loss(layers.transmission, transmission)
    losses["exclusion"] = exclusion_loss(layers.transmission, layers.reflection)
    if perceptual is not None:
        losses["perceptual"] = 0.01 * perceptual(layers.transmission, transmission)
    return losses


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))
