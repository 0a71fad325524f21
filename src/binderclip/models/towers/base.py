"""The tower interface: every backbone as embed, blocks, pool, project.

A tower holds references to a backbone's own modules and no parameters of its own, so training, moving or changing the
backbone changes the tower. The composition `project(pool(run(embed(x))))` is the backbone's ordinary forward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.bias import fit_bias, forbid
from binderclip.models.towers.block import Backbone, Block
from binderclip.models.towers.record import Record, Recorder, resolve_blocks, resolve_layer
from binderclip.models.towers.tokens import Tokens, random_patches
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.towers.pooling import AttentionPool

OnBlock = Callable[[int, Tokens], Tokens]
Interpolation = Literal["bicubic", "bilinear"]


class Stack(ABC):
    """Blocks in a row: what image and text towers share.

    Attributes:
        module: the backbone's module that owns the blocks.
        blocks: its blocks, first to last.
        width: width D of the residual stream.
        kind: short name of the backbone kind ("open_clip_vit", "timm_vit", "hf_clip", ...).
    """

    kind = "stack"

    def __init__(self, module: Backbone, blocks: Sequence[Block], width: int) -> None:
        self.module: Backbone = module
        self.blocks = tuple(blocks)
        self.width = width
        self.heads = self.blocks[0].heads if self.blocks else 0

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the residual stream: that of the tower's parameters."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    @abstractmethod
    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The norm after the last block (identity where the backbone has none), on single tokens."""

    @abstractmethod
    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        """Tokens after the last block -> one pre-projection vector (final norm included)."""

    @abstractmethod
    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """Pre-projection vectors -> the shared space, raw (not normalised)."""

    @property
    @abstractmethod
    def final_norm(self) -> Backbone:
        """The module behind `norm`, for those who need its weights."""

    @property
    def norm_last(self) -> bool:
        """Whether the final norm comes after pooling (it is then applied to the mean, not to tokens)."""
        return False

    @abstractmethod
    def pool_weights(self, tokens: Tokens) -> Float[Tensor, "B L"]:
        """The linear part of pooling: the weight of every token after the last block.

        Raises:
            NotSupported: pooling is not a weighted mean with weights known beforehand (maximum, attention).
        """

    @property
    def affine_projection(self) -> bool:
        """Whether `project` is affine (a matrix, perhaps a bias)."""
        return True

    @property
    def embed_dim(self) -> int:
        """Size E of the shared space."""
        with torch.no_grad():
            return self.project(torch.zeros(1, self.width, device=self.device, dtype=self.dtype)).shape[-1]

    def run(
        self,
        tokens: Tokens,
        *,
        start: int = 0,
        stop: int | None = None,
        attn_bias: Float[Tensor, "B H Lq Lk"] | None = None,
        bias_blocks: Container[int] | None = None,
        on_block: OnBlock | None = None,
        record: Record | Recorder | None = None,
    ) -> Tokens:
        """Run blocks start..stop-1.

        Args:
            tokens: the residual stream entering block `start`.
            start: first block (negative from the end).
            stop: one past the last block (negative from the end); None = to the end.
            attn_bias: added to the attention logits, (B or 1, H or 1, Lq, Lk). It refers to the whole sequence and
                follows the tokens when they are gathered; a bias of the current length is used as it stands.
            bias_blocks: indices of the blocks that get the bias, e.g. `range(8, 12)`; None = all that run.
            on_block: `on_block(l, tokens) -> tokens`, called before block l: pruning and rewiring act here.
            record: a `Recorder` that receives the wanted sites (`Recorder(Record(...), tower.depth)`; `trace` makes
                one). Recording `attn` makes attention explicit in those blocks.

        Raises:
            UsageError: the bias fits neither the whole nor the current sequence.
        """
        first, last = self._range(start, stop)
        biased = resolve_blocks(bias_blocks, self.depth)
        recorder = Recorder(record, self.depth) if isinstance(record, Record) else record
        for layer in range(first, last):
            if on_block is not None:
                tokens = on_block(layer, tokens)
            bias = self.bias(tokens, attn_bias if biased is None or layer in biased else None)
            block, rope = self.blocks[layer], self.rope(tokens)
            tokens = tokens.with_x(block(tokens.x, bias, rope=rope, recorder=recorder, layer=layer))
        return tokens

    def bias(self, tokens: Tokens, attn_bias: Tensor | None = None) -> Float[Tensor, "#B #H #L L"] | None:
        """The additive attention bias in force for `tokens`: causal and padding masks plus `attn_bias`, or None."""
        total: Tensor | None = None
        if attn_bias is not None:
            total = fit_bias(attn_bias, tokens)
        if tokens.causal:
            later = tokens.positions[:, None, :, None] < tokens.positions[:, None, None, :]
            total = forbid(total, later, tokens.x)
        if tokens.mask is not None:
            total = forbid(total, ~tokens.mask[:, None, None, :], tokens.x)
        return total

    def rope(self, tokens: Tokens) -> Float[Tensor, "B 1 L r"] | None:
        """Sines and cosines by which these tokens' queries and keys are rotated; None without rotary positions."""
        return None

    def __call__(self, x: Tensor) -> Float[Tensor, "B E"]:
        """Input -> raw embedding, through the interface."""
        return self.project(self.pool(self.run(self.embed(x))))

    def embed(self, x: Tensor) -> Tokens:
        """Input -> tokens entering block 0."""
        raise NotSupported(f"{type(self).__name__} has no embedding step")

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        last = self.depth if stop is None else stop
        first, last = (value + self.depth if value < 0 else value for value in (start, last))
        if not 0 <= first <= last <= self.depth:
            raise UsageError(f"run: start={start}, stop={stop} is not a range of the {self.depth} blocks")
        return first, last

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(blocks={self.depth}, width={self.width}, heads={self.heads}, embed_dim={self.embed_dim})"


class Tower(Stack):
    """An image tower: normalised pixels -> tokens -> blocks -> pooled -> shared space.

    Attributes:
        grid: (h, w) of patches at the training resolution.
        patch: side of a patch in pixels.
        prefix: number of tokens before the patches (class token, registers).
        image_size: (h, w) in pixels of the training resolution.
        pooling: "token", "mean", "map" (attention pooling by a learned query), "latent" or "max".
        mean, std: the pixel normalisation that belongs to the backbone, where the opener was told; not applied here.
    """

    #: How the library itself resamples positions: (mode, antialias).
    native_interpolation: tuple[Interpolation, bool] = ("bicubic", True)

    def __init__(
        self,
        module: Backbone,
        blocks: Sequence[Block],
        width: int,
        *,
        grid: tuple[int, int],
        patch: int,
        prefix: int,
        pooling: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(module, blocks, width)
        self.grid = grid
        self.patch = patch
        self.prefix = prefix
        self.pooling = pooling
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w) in pixels of the training resolution."""
        return self.grid[0] * self.patch, self.grid[1] * self.patch

    @abstractmethod
    def patches(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Patch embedding without positions, row by row."""

    @abstractmethod
    def prefix_tokens(self) -> Float[Tensor, "P D"] | None:
        """The learned tokens before the patches, without positions."""

    @abstractmethod
    def position_table(self) -> Float[Tensor, "L D"] | None:
        """Positional embedding at the training grid (prefix rows first), or None."""

    @abstractmethod
    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The norm (and dropout) between embedding and blocks; identity where there is none."""

    @abstractmethod
    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        """What `pool` gives if it looks at this token alone: final norm, or the value path of attention pooling."""

    def attention_pool(self, tokens: Tokens) -> AttentionPool | None:
        """Pooling by a learned query taken apart, or None where pooling is none ("token", "mean", ...)."""
        return None

    def pool_weights(self, tokens: Tokens) -> Float[Tensor, "B L"]:
        """One on the class token, or 1 / N on the N patches."""
        if self.pooling not in ("token", "mean"):
            raise NotSupported(f"{self.pooling!r} pooling is not a weighted mean of tokens with known weights")
        batch, length = tokens.x.shape[:2]
        weights = torch.zeros(batch, length, device=tokens.x.device, dtype=tokens.x.dtype)
        if self.pooling == "token":
            weights[:, 0] = 1.0
        else:
            first = 0 if self.pools_prefix else tokens.prefix
            weights[:, first : length - tokens.extra] = 1.0 / (length - tokens.extra - first)
        return weights

    @property
    def pools_prefix(self) -> bool:
        """Whether mean pooling includes the prefix tokens."""
        return False

    @property
    def patch_dropout(self) -> float:
        """Share of patches that the backbone drops now (0 in eval mode)."""
        return 0.0

    def embed(
        self,
        x: Float[Tensor, "B 3 H W"],
        *,
        mode: Interpolation | None = None,
        offset: float = 0.0,
        norm: bool = True,
        record: Recorder | None = None,
        on_patches: Callable[[Tensor], Tensor] | None = None,
    ) -> Tokens:
        """Normalised pixels -> tokens entering block 0.

        Args:
            x: (B, 3, H, W), H and W multiples of `patch`.
            mode: interpolation of positions off the training grid; None = as the library does it.
            offset: see `position`.
            norm: False leaves out ln_pre: the tokens as they are cut into windows before it.
            record: where `embedded` (before ln_pre) is written.
            on_patches: changes the embedded patches (B, N, D), row by row, before positions are added to them (mask
                tokens).

        Raises:
            UsageError: wrong shape or a size that is not a multiple of the patch.
        """
        grid = self.grid_of(x)
        tokens = self.patches(x.to(self.dtype))
        if on_patches is not None:
            tokens = on_patches(tokens)
        prefix = self.prefix_tokens()
        if prefix is not None:
            tokens = torch.cat([prefix.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens], 1)
        table = self.position(grid, mode, offset)
        if table is not None:
            tokens = tokens + table.to(tokens.dtype)
        if record is not None:
            record.put("embedded", None, tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        out = Tokens(self.norm_pre(tokens) if norm else tokens, positions, grid=grid, prefix=self.prefix)
        return random_patches(out, self.patch_dropout) if self.patch_dropout > 0 else out

    def grid_of(self, x: Float[Tensor, "B 3 H W"]) -> tuple[int, int]:
        """(h, w) patches of these pixels, checked."""
        if x.dim() != 4 or x.shape[1] != 3:
            raise UsageError(f"the image tower takes normalised pixels (B, 3, H, W), got shape {tuple(x.shape)}")
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch or not height or not width:
            raise UsageError(f"{height} x {width} pixels: both sides must be multiples of the patch, {self.patch}")
        return height // self.patch, width // self.patch

    def position(
        self, grid: tuple[int, int] | None = None, mode: Interpolation | None = None, offset: float = 0.0
    ) -> Float[Tensor, "1 L D"] | None:
        """Positional embedding at a grid (1, prefix + h * w, D), interpolated where it is not the training grid.

        Args:
            grid: (h, w) patches; None = the training grid.
            mode: "bicubic" or "bilinear" without antialiasing; None = exactly as the library does it.
            offset: added to h and w when the scale factor is formed; 0.1 reproduces the scale factor
                (w + 0.1) / sqrt(N) of DINO and of most segmentation codes built on CLIP.
        """
        table = self.position_table()
        grid = self.grid if grid is None else (grid[0], grid[1])
        if table is None:
            return None
        if grid == self.grid and not offset:
            return table.unsqueeze(0)
        check_choice("mode", mode, (None, "bicubic", "bilinear"))
        return self._interpolate(table, grid, mode, offset)

    def _interpolate(
        self, table: Tensor, grid: tuple[int, int], mode: Interpolation | None, offset: float
    ) -> Float[Tensor, "1 L D"]:
        way, antialias = self.native_interpolation if mode is None else (mode, False)
        head, body = table[: self.prefix], table[self.prefix :]
        image = body.float().view(1, *self.grid, -1).permute(0, 3, 1, 2)
        if offset:
            factors = tuple((new + offset) / old for new, old in zip(grid, self.grid, strict=True))
            image = F.interpolate(image, scale_factor=factors, mode=way, align_corners=False, antialias=antialias)
        else:
            image = F.interpolate(image, size=grid, mode=way, align_corners=False, antialias=antialias)
        if tuple(image.shape[-2:]) != tuple(grid):
            raise UsageError(f"offset {offset} gives a grid of {tuple(image.shape[-2:])} instead of {grid}")
        return torch.cat([head, image.flatten(2)[0].T.to(table.dtype)]).unsqueeze(0)

    def head(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """Single tokens after the last block -> shared space: project(lift(x))."""
        return self.project(self.lift(x))

    def dense(self, tokens: Tokens) -> Float[Tensor, "B E h w"]:
        """Every patch token in the shared space, raw, as if pooling looked at it alone.

        Class-token and mean-pooled towers: final norm and projection. SigLIP: the value path of its pooling head.
        For MaskCLIP's path through the last block see `value_path`.

        Raises:
            UsageError: patches were dropped, so there is no map.
        """
        if tokens.grid is None or tokens.patches.shape[1] != tokens.grid[0] * tokens.grid[1]:
            raise UsageError(
                f"dense needs every patch of the grid {tokens.grid}; {tokens.patches.shape[1]} tokens are left"
            )
        out = self.head(tokens.patches)
        if not tokens.whole:
            places = tokens.positions[:, tokens.prefix : tokens.x.shape[1] - tokens.extra]
            order = places.argsort(1).expand(out.shape[0], -1)
            out = out.gather(1, order.unsqueeze(-1).expand_as(out))
        return out.transpose(1, 2).unflatten(2, tokens.grid)

    def value_path(self, tokens: Tokens, *, layer: int = -1, residual: bool = False, mlp: bool = False) -> Tokens:
        """Block `layer` with the identity as attention: every token keeps its own value (MaskCLIP).

        Args:
            tokens: the stream entering that block, `run(embed(x), stop=layer)`.
            layer: which block.
            residual: keep the residual sum around attention (on in CLIP-DINOiser, off in ClearCLIP's finding).
            mlp: keep the MLP with its residual.

        Paper: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022.
        """
        block = self.blocks[resolve_layer(layer, self.depth)]
        out = block.mix(None, block.value(tokens.x))
        if residual:
            out = tokens.x + out
        if mlp:
            out = out + block.mlp(out)
        return tokens.with_x(out)

    def dense_images(
        self, x: Float[Tensor, "B 3 H W"], *, path: Literal["plain", "value"] = "plain", residual: bool = False,
        mlp: bool = False,
    ) -> Float[Tensor, "B E h w"]:  # fmt: skip
        """Normalised pixels -> dense map, by the ordinary last block ("plain") or its value path ("value")."""
        if path == "plain":
            return self.dense(self.run(self.embed(x)))
        if path != "value":
            raise UsageError(f"path must be 'plain' or 'value', got {path!r}")
        return self.dense(self.value_path(self.run(self.embed(x), stop=-1), residual=residual, mlp=mlp))

    def pre_projection(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Normalised pixels -> pooled features before the projection."""
        return self.pool(self.run(self.embed(images)))
