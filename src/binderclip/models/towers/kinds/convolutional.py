"""Convolutional image towers as far as they go: the last feature map, every place of it in the shared space.

They have no blocks and no attention between places, so nothing can be rewired; what needs that refuses them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.base import OnBlock, Tower
from binderclip.models.towers.block import Backbone
from binderclip.models.towers.record import Record, Recorder
from binderclip.models.towers.tokens import Tokens

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel

KINDS = "open_clip ModifiedResNet (RN50, ...), timm ConvNeXt and FastViT (MobileCLIP), the bundled small-b"


class ConvolutionalTower(Tower):
    """A convolutional tower behind the interface of `Tower`, with no blocks: `dense` and the plain forward work.

    A "token" is a place of the last feature map. `lift` and `project` treat it as pooling treats a map of this one
    place, by the library's own modules:

    - average pooling and a linear head (MobileCLIP's FastViT, small-b, ConvNeXt with its norm before pooling): the mean
      of `dense` is the embedding, exactly;
    - average pooling with a norm behind it (ConvNeXt of open_clip): the norm acts on every place instead of on their
      mean, so the mean of `dense` is not the embedding;
    - attention pooling (ModifiedResNet): the value path without positions, as in MaskCLIP; with uniform attention and
      no positions the mean of `dense` would be the embedding.

    Args:
        module: the module with the parameters.
        width: channels D of the last map.
        grid: (h, w) of the map at the training resolution.
        patch: pixels a place.
        pooling: "mean" or "attention".
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Paper of the value path: Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022.
    """

    kind = "convolutional"

    def __init__(
        self, module: Backbone, width: int, *, grid: tuple[int, int], patch: int, pooling: str,
        mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            module, (), width, grid=grid, patch=patch, prefix=0, pooling=pooling, mean=mean, std=std
        )  # fmt: skip

    def feature_map(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """The last map, before pooling."""
        raise NotSupported(f"{type(self).__name__} has no feature map")

    def pool_map(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B F"]:
        """Pooling of a map of any size."""
        raise NotSupported(f"{type(self).__name__} pools no map")

    def patches(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.feature_map(x).flatten(2).transpose(1, 2)

    def map_of(self, tokens: Tokens) -> Float[Tensor, "B D h w"]:
        """Tokens as the map they are places of.

        Raises:
            UsageError: some were dropped or masked, which pooling of a map cannot leave out.
        """
        grid = tokens.grid
        if grid is None or not tokens.whole or tokens.mask is not None:
            raise UsageError("a convolutional tower pools its whole map: no place may be dropped, masked or appended")
        return tokens.x.transpose(1, 2).unflatten(2, grid)

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
        """There are no blocks: the tokens themselves.

        Raises:
            NotSupported: a bias on attention, or a hook before blocks.
        """
        if attn_bias is not None or on_block is not None:
            raise NotSupported(f"{type(self.module).__name__} has no attention: there is nothing to rewire")
        return tokens

    def value_path(self, tokens: Tokens, *, layer: int = -1, residual: bool = False, mlp: bool = False) -> Tokens:
        raise NotSupported(f"{type(self.module).__name__} has no blocks with a value path; dense() gives its map")

    def prefix_tokens(self) -> None:
        return None

    def position_table(self) -> None:
        return None

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x

    @property
    def final_norm(self) -> Backbone:
        return nn.Identity()


class TimmMap(ConvolutionalTower):
    """A timm network of average pooling, with open_clip's head behind it where there is one.

    Args:
        trunk: ConvNeXt, FastVit or the bundled PooledLite.
        head: open_clip TimmModel.head, or None.
        size: (h, w) of the input in pixels.
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Raises:
        NotSupported: another class, or another pooling.
    """

    trunks = ("ConvNeXt", "FastVit", "PooledLite")

    def __init__(
        self, trunk: Backbone, head: Backbone | None, size: tuple[int, int], *, mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        own = getattr(trunk, "head", None)
        pooled_by = getattr(getattr(own, "global_pool", None), "pool_type", "avg")
        if type(trunk).__name__ not in self.trunks or pooled_by != "avg" or hasattr(head, "pool"):
            raise NotSupported(
                f"timm {type(trunk).__name__}, pooled by {pooled_by!r}, gives no map; supported: {KINDS}"
            )
        self.tail = head
        with torch.no_grad():
            training, like = trunk.training, next(trunk.parameters())
            trunk.eval()
            seen = trunk.forward_features(torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype))
            trunk.train(training)
        grid = (seen.shape[2], seen.shape[3])
        super().__init__(
            trunk, seen.shape[1], grid=grid, patch=size[0] // grid[0], pooling="mean", mean=mean, std=std
        )  # fmt: skip

    def feature_map(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        return self.module.forward_features(x)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B F"]:
        return self.pool_map(self.map_of(tokens))

    def pool_map(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B F"]:
        if hasattr(self.module, "forward_head"):
            return self.module.forward_head(maps)
        return self.module.classifier(maps.mean((2, 3)))

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        places = x.reshape(-1, self.width, 1, 1)
        return self.pool_map(places).view(*x.shape[:-1], -1)

    def project(self, x: Float[Tensor, "*B F"]) -> Float[Tensor, "*B E"]:
        return x if self.tail is None else self.tail(x)

    @property
    def embed_dim(self) -> int:
        with torch.no_grad():
            return self.head(torch.zeros(1, self.width, device=self.device, dtype=self.dtype)).shape[-1]


class ResNetMap(ConvolutionalTower):
    """open_clip's ModifiedResNet.

    Args:
        visual: the module.
        mean, std: pixel normalisation that belongs to it, kept for the reader.
    """

    def __init__(
        self, visual: Backbone, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        size = visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        super().__init__(
            visual, visual.attnpool.v_proj.in_features, grid=(height // 32, width // 32), patch=32,
            pooling="attention", mean=mean, std=std,
        )  # fmt: skip

    def feature_map(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        x = self.module.stem(x)
        for layer in (self.module.layer1, self.module.layer2, self.module.layer3, self.module.layer4):
            x = layer(x)
        return x

    def pool(self, tokens: Tokens) -> Float[Tensor, "B E"]:
        if tokens.grid != self.grid:
            raise NotSupported(
                f"attention pooling of this ResNet has positions for {self.grid[0]} x {self.grid[1]} places alone, not "
                f"for {tokens.grid}; dense() and attend() take any size"
            )
        return self.module.attnpool(self.map_of(tokens))

    def pool_map(self, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E"]:
        return self.attend(maps)

    def attend(self, maps: Float[Tensor, "B D h w"], *, positions: bool = True) -> Float[Tensor, "B E"]:
        """Attention pooling of a map of any size.

        Args:
            maps: the last map, see `feature_map`.
            positions: add the positional embedding, interpolated to the map (bicubic, the one of the query as it is);
                False leaves it out, as CLIP-IQA (arXiv 2207.12396) does, so that the size of a picture has no say.
        """
        pool, (height, width) = self.module.attnpool, maps.shape[2:]
        x = maps.flatten(2).permute(2, 0, 1)  # (h w, B, D)
        x = torch.cat([x.mean(0, keepdim=True), x])
        if positions:
            table = pool.positional_embedding
            grid = table[1:].T.unflatten(1, self.grid)[None].float()  # (1, D, gh, gw)
            if (height, width) != self.grid:
                grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
            x = x + torch.cat([table[:1], grid[0].flatten(1).T.to(table)]).to(x)[:, None]
        joint = torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias])
        pooled, _ = F.multi_head_attention_forward(
            query=x[:1], key=x, value=x, embed_dim_to_check=x.shape[-1], num_heads=pool.num_heads,
            in_proj_weight=None, in_proj_bias=joint, bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
            out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias, training=False, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )  # fmt: skip
        return pooled[0]

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        pool = self.module.attnpool
        return pool.c_proj(pool.v_proj(x))

    def project(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        return x

    @property
    def embed_dim(self) -> int:
        return self.module.attnpool.c_proj.out_features


def open_convolutional_tower(
    backbone: nn.Module, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> ConvolutionalTower:
    """The last feature map of a convolutional image tower.

    Args:
        backbone: an open_clip CLIP/CustomTextCLIP, or its `visual`.
        mean, std: the pixel normalisation that belongs to it; kept, never applied.

    Raises:
        NotSupported: any other class; the message names what is supported.
    """
    visual: Backbone = getattr(backbone, "visual", backbone)
    name = type(visual).__name__
    if name == "ModifiedResNet":
        return ResNetMap(visual, mean=mean, std=std)
    if name == "TimmModel":
        size = visual.image_size
        side = (size, size) if isinstance(size, int) else (size[0], size[1])
        return TimmMap(visual.trunk, visual.head, side, mean=mean, std=std)
    raise NotSupported(f"image tower {name} gives no map of places; supported: {KINDS}")


def dense_tower_of(model: ImageTextModel) -> Tower:
    """A model's `image_tower`, or where that is convolutional the tower that gives its last feature map.

    Raises:
        NotSupported: neither can be opened.
    """
    try:
        return model.image_tower
    except NotSupported as error:
        try:
            return open_convolutional_tower(model.backbone, mean=model.preprocess.mean, std=model.preprocess.std)
        except NotSupported:
            raise error from None
