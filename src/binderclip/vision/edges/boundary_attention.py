"""Boundary attention: a network that refines the junction at each pixel by what its neighbours are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.edges.boundary_maps import BoundaryMaps, paint_wedges, render_boundaries, square_masks
from binderclip.vision.edges.junctions import JunctionField
from binderclip.vision.edges.patches import fold_patches, sum_patches

__all__ = ["BoundaryAttention"]

WEDGES = 3
MOST_NEIGHBOURS = 2**24
"""Numbers of neighbours' keys that are laid out at once; a large picture is done in strips of rows."""


class BoundaryAttention(nn.Module):
    """Finds boundaries in noisy pictures: a junction for the patch around each pixel, agreed on with its neighbours.

    A mixer of 3 x 3 convolutions proposes a hidden state at each pixel; blocks of iterations, whose weights are
    shared within a block, refine it by cross-attention over its neighbourhood, to the states there, the picture and
    the picture as smoothed so far. After each iteration the state gives a junction and a distribution of patch sizes,
    from which the smoothed picture is made anew. It runs on pictures of any size that hold a patch.

    Args:
        channels: of the pictures.
        width: of the hidden state.
        patch: side of the patches in pixels, odd.
        sides: of the squares of which a patch's mask is a mixture, odd.
        blocks, iterations: in each block as many iterations.
        attention: side of the neighbourhood in pixels, odd.
        layers, heads: of the attention in an iteration; `width` + `size_token` is a multiple of the heads.
        size_token: width of the learned token that becomes the distribution of patch sizes.
        feed_forward: width of the layers' MLP. mixer: of the mixer's convolutions.
        dropout: in the MLP, while training.
        eta, delta: softness of wedges and boundaries, in patch coordinates. Small networks learn faster with more.

    Raises:
        UsageError: a setting out of its range.

    Paper: Boundary Attention: Learning to Find Faint Boundaries at Any Resolution (arXiv 2401.00935). The defaults are
    the released program's.

    Examples:
        >>> import torch
        >>> network = BoundaryAttention(width=8, patch=5, sides=(3, 5), blocks=1, iterations=2, attention=3).eval()
        >>> maps = network(torch.rand(1, 3, 12, 14))[-1]
        >>> maps.distance.shape, maps.features.shape
        (torch.Size([1, 12, 14]), torch.Size([1, 3, 12, 14]))
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        patch: int = 17,
        sides: Sequence[int] = (3, 9, 17),
        blocks: int = 2,
        iterations: int = 4,
        attention: int = 11,
        layers: int = 2,
        heads: int = 4,
        size_token: int = 8,
        feed_forward: int = 128,
        mixer: int = 96,
        dropout: float = 0.1,
        eta: float = 1e-4,
        delta: float = 1e-3,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "channels": channels, "width": width, "patch": patch, "sides": list(sides), "blocks": blocks,
            "iterations": iterations, "attention": attention, "layers": layers, "heads": heads,
            "size_token": size_token, "feed_forward": feed_forward, "mixer": mixer, "dropout": dropout, "eta": eta,
            "delta": delta,
        }  # fmt: skip
        counts = {
            "channels": channels, "width": width, "blocks": blocks, "iterations": iterations, "layers": layers,
            "heads": heads, "size_token": size_token, "feed_forward": feed_forward, "mixer": mixer,
        }  # fmt: skip
        for name, value in counts.items():
            check_whole(name, value, least=1)
        for name, value in (("patch", patch), ("attention", attention)):
            check_whole(name, value, least=3 if name == "patch" else 1)
            if value % 2 == 0:
                raise UsageError(f"{name} must be odd, got {value}")
        check_number("dropout", dropout, least=0, below=1)
        check_number("eta", eta, above=0)
        check_number("delta", delta, above=0)
        if (width + size_token) % heads:
            raise UsageError(f"width + size_token must be a multiple of {heads} heads, got {width} + {size_token}")
        self.patch, self.iterations, self.eta, self.delta = patch, iterations, eta, delta
        self.register_buffer("masks", square_masks(patch, sides), persistent=False)
        self.mixer = _JunctionMixer(channels, width, mixer)
        self.first_head = nn.Linear(width, WEDGES + 4)
        refining = [
            _RefinementBlock(channels, width, len(sides), attention, layers, heads, size_token, feed_forward, dropout)
            for _ in range(blocks)
        ]
        self.blocks = nn.ModuleList(refining)
        self.apply(_initialise_linear)
        for block in refining:
            nn.init.ones_(block.to_sizes.weight)  # all patch sizes alike at first
        for head in (self.first_head, *(block.head for block in refining)):
            nn.init.uniform_(head.bias, 0, 0.01)

    def forward(self, images: Float[Tensor, "B C H W"], *, outputs: int = 2) -> list[BoundaryMaps]:
        """Maps of the last iterations, the last one last.

        Args:
            images: in any range, which is brought to [0, 1] for the proposal, channel by channel.
            outputs: how many iterations are given out, the proposal counted as one; `BoundaryLoss` takes two.

        Raises:
            UsageError: no float pictures of so many channels, or smaller ones than a patch; another number of outputs.
        """
        stem = self.mixer.stem
        if images.ndim != 4 or images.shape[1] != stem.in_features or not images.is_floating_point():
            raise UsageError(
                f"images must be float (B, {stem.in_features}, H, W), not {images.dtype} of shape {tuple(images.shape)}"
            )
        if min(images.shape[-2:]) < self.patch or not len(images):
            raise UsageError(f"images must hold a patch of {self.patch} pixels, not {tuple(images.shape)}")
        total = 1 + len(self.blocks) * self.iterations
        check_number("outputs", outputs, least=1, most=total)
        start = self.mixer(images)[:, self._inner(images, 2), self._inner(images, 3)]  # (B, h, w, D)
        hidden, masks = start, list[Tensor | None]([None])
        fields = [_junctions(self.first_head, hidden)]
        smooth = self._smooth(fields[-1], images, None)
        states, following = [hidden], start
        for block in self.blocks:
            assert isinstance(block, _RefinementBlock)
            for step in range(self.iterations):
                hidden, sizes = block(hidden, start, self._cut(smooth), self._cut(images))
                masks.append(torch.einsum("bhws,sij->bijhw", sizes, self.masks.to(sizes.dtype)))
                fields.append(_junctions(block.head, hidden))
                smooth = self._smooth(fields[-1], images, masks[-1])
                states.append(hidden)
                following = hidden if step == 0 else following
            start = following  # of the next block: what this one's first iteration gave
        return [
            dataclasses.replace(
                render_boundaries(field, images, self.patch, mask=mask, eta=self.eta, delta=self.delta), hidden=state
            )
            for field, mask, state in list(zip(fields, masks, states, strict=True))[-outputs:]
        ]

    def _inner(self, images: Tensor, axis: int) -> slice:
        """The pixels around which a patch lies within the picture."""
        return slice(self.patch // 2, images.shape[axis] - self.patch // 2)

    def _cut(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w C"]:
        return maps[:, :, self._inner(maps, 2), self._inner(maps, 3)].permute(0, 2, 3, 1)

    def _smooth(self, field: JunctionField, images: Tensor, mask: Tensor | None) -> Float[Tensor, "B C H W"]:
        """The picture with each wedge in its mean colour."""
        h, w = field.vertex.shape[-2:]
        weight = images.new_ones(len(images), self.patch, self.patch, h, w) if mask is None else mask
        patches = paint_wedges(images, field.wedges(self.patch, eta=self.eta), weight)
        return fold_patches(patches * weight[:, None], sum_patches(weight[:, None]))


class _JunctionMixer(nn.Module):
    """Hidden states of all pixels from the picture: two blocks of tied convolutions and MLPs."""

    def __init__(self, channels: int, width: int, middle: int) -> None:
        super().__init__()
        self.stem = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(_MixerLayer(width, middle) for _ in range(2))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W D"]:
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        # A channel of one value has no range; it becomes 0.
        x = self.stem(((images - low) / (high - low).clamp(min=1e-6)).permute(0, 2, 3, 1))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class _MixerLayer(nn.Module):
    """Tied convolutions over pixels, then an MLP over channels, each added to its input."""

    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        # Tied: one 3 x 3 kernel an output channel for all input channels, a convolution of their sum.
        self.over_pixels = nn.ModuleList([nn.Conv2d(1, middle, 3, padding=1), nn.Conv2d(1, width, 3, padding=1)])
        self.over_channels = nn.Sequential(nn.Linear(width, width), nn.GELU("tanh"), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        first, second = self.over_pixels
        mixed = F.gelu(first(self.norm1(x).sum(-1)[:, None]), approximate="tanh")
        x = x + second(mixed.sum(1, keepdim=True)).permute(0, 2, 3, 1)
        return x + self.over_channels(self.norm2(x))


class _RefinementBlock(nn.Module):
    """One iteration; its weights are used as often as the block iterates."""

    def __init__(
        self, channels: int, width: int, sizes: int, attention: int, layers: int, heads: int, token: int,
        feed_forward: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        # What a neighbour shows: its state, the smoothed picture, that picture's first channel again, the picture.
        shown = width + 2 * channels + 1
        self.residual, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-6)
        self.size_token = nn.Parameter(torch.randn(token))
        self.positions = nn.Parameter(torch.randn(attention, attention, shown) / attention)
        self.layers = nn.ModuleList(
            _CrossLayer(width + token, shown, heads, feed_forward, dropout) for _ in range(layers)
        )
        self.head, self.to_sizes = nn.Linear(width, WEDGES + 4), nn.Linear(token, sizes)

    def forward(
        self,
        hidden: Float[Tensor, "B h w D"],
        start: Float[Tensor, "B h w D"],
        smooth: Float[Tensor, "B h w C"],
        images: Float[Tensor, "B h w C"],
    ) -> tuple[Float[Tensor, "B h w D"], Float[Tensor, "B h w S"]]:
        """The next state, and the distribution of patch sizes."""
        hidden = self.norm(hidden + self.residual(start))
        shown = torch.cat([hidden, smooth, smooth[..., :1], images], dim=-1)
        query = torch.cat([hidden, self.size_token.expand(*hidden.shape[:3], -1)], dim=-1)
        for layer in self.layers:
            query = layer(query, shown, self.positions)
        hidden, token = query.split([hidden.shape[-1], len(self.size_token)], dim=-1)
        return hidden, self.to_sizes(token).softmax(-1)


class _CrossLayer(nn.Module):
    """Cross-attention of each pixel over its neighbourhood, then an MLP; each added, then normalised."""

    def __init__(self, width: int, shown: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(shown, width), nn.Linear(shown, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, feed_forward), nn.Dropout(dropout), nn.ReLU(), nn.Linear(feed_forward, width)
        )

    def forward(
        self, query: Float[Tensor, "B h w D"], shown: Float[Tensor, "B h w E"], positions: Float[Tensor, "K K E"]
    ) -> Float[Tensor, "B h w D"]:
        query = self.norm1(query + self.out(self._attend(query, shown, positions)))
        return self.norm2(query + self.mlp(query))

    def _attend(self, query: Tensor, shown: Tensor, positions: Tensor) -> Float[Tensor, "B h w D"]:
        batch, h, w, width = query.shape
        side = len(positions)
        reach, each = side // 2, width // self.heads
        asked = self.query(query).unflatten(-1, (self.heads, each)) / each**0.5  # (B, h, w, n, d)
        # A neighbour's key is that of (what it shows + its position) = key + position under the same matrix.
        at = [F.linear(positions, part.weight).unflatten(-1, (self.heads, each)) for part in (self.key, self.value)]
        keys, values = (
            F.pad(part(shown).permute(0, 3, 1, 2), (reach,) * 4).unflatten(1, (self.heads, each))
            for part in (self.key, self.value)
        )  # (B, n, d, h + 2 reach, w + 2 reach)
        inside = F.pad(torch.ones(h, w, dtype=torch.bool, device=query.device), (reach,) * 4)
        strip = max(1, MOST_NEIGHBOURS // (batch * width * side * side * w))
        attended = []
        for top in range(0, h, strip):
            rows = slice(top, min(top + strip, h) + 2 * reach)
            part = [_neighbours(one[..., rows, :], side) for one in (keys, values)]  # (B, n, d, y, x, i, j)
            here = asked[:, top : top + strip]
            logits = torch.einsum("byxnd,bndyxij->bnyxij", here, part[0]) + torch.einsum(
                "byxnd,ijnd->bnyxij", here, at[0]
            )
            outside: Bool[Tensor, "y x i j"] = ~_neighbours(inside[rows], side)
            weight = logits.masked_fill(outside, -torch.inf).flatten(-2).softmax(-1).unflatten(-1, (side, side))
            attended.append(
                torch.einsum("bnyxij,bndyxij->byxnd", weight, part[1])
                + torch.einsum("bnyxij,ijnd->byxnd", weight, at[1])
            )
        return torch.cat(attended, dim=1).flatten(-2)


def _neighbours(maps: Tensor, side: int) -> Tensor:
    """The neighbourhood (..., h, w, side, side) of each pixel of a padded map; a view."""
    return maps.unfold(-2, side, 1).unfold(-2, side, 1)


def _junctions(head: nn.Linear, hidden: Float[Tensor, "B h w D"]) -> JunctionField:
    return JunctionField.from_raw(head(hidden).permute(0, 3, 1, 2))


def _initialise_linear(module: nn.Module) -> None:
    """LeCun's normal weights and biases of 0, as in the released program."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
