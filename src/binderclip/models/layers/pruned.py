"""Blocks with fewer heads and hidden neurons than their width asks for, and the record of such widths in a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.self_attention import attend
from binderclip.settings import brief

__all__ = [
    "PrunedAttention",
    "block_widths",
    "keep_blocks",
    "keep_entries",
    "keep_heads",
    "keep_neurons",
    "mlp_layers",
    "set_widths",
    "widths_record",
]

SIDES = {"vision": "visual", "text": "text"}
"""Part of the record -> attribute of the backbone; an open_clip CLIP holds its text tower itself."""
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.BatchNorm2d: ("num_features",),
}


class PrunedAttention(nn.MultiheadAttention):
    """Multi-head self-attention in which heads x head width may differ from the width of the tokens.

    torch's own module splits the width evenly, so one that lost heads cannot be one. Parameters have the same names.

    Args:
        width: D of the tokens.
        heads: H. head_dim: d of each.
        bias: whether the projections have one.
        device, dtype: of the parameters.

    Shapes: in_proj_weight (3 H d, D), out_proj.weight (D, H d).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)  # the base class refuses these widths
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        inner = heads * head_dim
        self.embed_dim = self.kdim = self.vdim = width
        self.num_heads, self.head_dim = heads, head_dim
        self.dropout, self.batch_first, self.add_zero_attn, self._qkv_same_embed_dim = 0.0, True, False, True
        self.bias_k = self.bias_v = None
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, width, **factory))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(3 * inner, **factory)) if bias else None)
        self.out_proj = nn.Linear(inner, width, bias=bias, **factory)  # type: ignore[assignment]
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Float[Tensor, "B L D"],
        key: Float[Tensor, "B L D"],
        value: Float[Tensor, "B L D"],
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if key is not query or value is not query or key_padding_mask is not None:
            raise NotSupported("attention that lost heads attends within one sequence, without a mask of padding")
        if need_weights:
            raise NotSupported(
                "attention that lost heads gives no maps here: pass need_weights=False, or open the tower"
            )
        packed = nn.functional.linear(query, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3 H d)
        q, k, v = packed.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, d) each
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = ~attn_mask  # True leaves a key out here, and lets it count in `attend`
            if attn_mask.ndim == 3:  # (B H, L, L)
                attn_mask = attn_mask.view(len(query), -1, *attn_mask.shape[1:])
        mixed = attend(q, k, v, attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def mlp_layers(block: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers of a block's MLP: D -> neurons and neurons -> D.

    Raises:
        NotSupported: the MLP is gated, normalised in between, or no MLP.
    """
    mlp = getattr(block, "mlp", None)
    layers = [part for part in mlp.modules() if isinstance(part, nn.Linear)] if isinstance(mlp, nn.Module) else []
    norms = [part for part in mlp.modules() if isinstance(part, nn.LayerNorm)] if isinstance(mlp, nn.Module) else []
    if len(layers) != 2 or layers[0].out_features != layers[1].in_features or norms:
        raise NotSupported(f"{type(block).__name__} has no plain MLP of two linear layers, whose neurons could go")
    return layers[0], layers[1]


def keep_entries(module: nn.Module, name: str, dim: int, index: Tensor) -> None:
    """Keep some entries of one tensor of a layer along one dimension, in place, and its sizes true.

    Args:
        module: Linear, Conv2d, BatchNorm2d or an attention module.
        name: attribute of the parameter or buffer.
        dim: along which entries are kept.
        index: (n,) which.
    """
    tensor = getattr(module, name)
    kept = tensor.detach().index_select(dim, index.to(tensor.device)).contiguous()
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(kept, requires_grad=tensor.requires_grad))
    else:
        setattr(module, name, kept)
    if name not in ("weight", "running_mean"):
        return
    for kind, sizes in SIZES.items():
        if isinstance(module, kind) and dim < len(sizes):
            setattr(module, sizes[dim], len(index))
            if isinstance(module, nn.Conv2d) and module.groups > 1:  # depthwise: every channel is a group
                module.in_channels = module.groups = len(index)


def keep_heads(block: Any, heads: Sequence[int]) -> None:
    """Keep some attention heads of a timm or open_clip block, in place.

    Args:
        block: the library's block.
        heads: which, ascending.

    Raises:
        NotSupported: attention of another kind.
    """
    attention = block.attn
    if len(heads) == attention.num_heads:
        return
    if isinstance(attention, nn.MultiheadAttention):
        _keep_torch_heads(block, attention, heads)
        return
    if not hasattr(attention, "qkv") or not hasattr(attention, "attn_dim"):
        raise NotSupported(f"heads of {type(attention).__name__} cannot be taken out (timm's needs version 1.0.20)")
    joint, d = attention.qkv, attention.head_dim
    rows = head_rows(heads, d, attention.num_heads)
    keep_entries(joint, "weight", 0, rows)
    if joint.bias is not None:
        keep_entries(joint, "bias", 0, rows)
    keep_entries(attention.proj, "weight", 1, rows[: len(heads) * d])
    attention.num_heads, attention.attn_dim = len(heads), len(heads) * d


def head_rows(heads: Sequence[int], head_dim: int, total: int) -> Tensor:
    """Rows of a packed query, key and value matrix (3 H d, D) that belong to some of its H heads."""
    own = (torch.as_tensor(list(heads))[:, None] * head_dim + torch.arange(head_dim)).flatten()
    return torch.cat([own + part * total * head_dim for part in range(3)])


def _keep_torch_heads(block: Any, attention: Any, heads: Sequence[int]) -> None:
    plain = attention.batch_first and attention._qkv_same_embed_dim and attention.dropout == 0
    if not plain or attention.bias_k is not None or attention.add_zero_attn:
        raise NotSupported("heads of this MultiheadAttention cannot be taken out: it is no plain self-attention")
    d = attention.in_proj_weight.shape[0] // (3 * attention.num_heads)
    rows, weight = (
        head_rows(heads, d, attention.num_heads).to(attention.in_proj_weight.device),
        attention.in_proj_weight,
    )
    bias = attention.in_proj_bias is not None
    with torch.device("meta"):
        pruned = PrunedAttention(attention.embed_dim, len(heads), d, bias=bias)
    trains = weight.requires_grad
    pruned.in_proj_weight = nn.Parameter(weight.detach()[rows].clone(), requires_grad=trains)
    if bias:
        pruned.in_proj_bias = nn.Parameter(attention.in_proj_bias.detach()[rows].clone(), requires_grad=trains)
    pruned.out_proj = attention.out_proj
    keep_entries(pruned.out_proj, "weight", 1, rows[: len(heads) * d])
    block.attn = pruned.train(attention.training)


def keep_neurons(block: nn.Module, neurons: Sequence[int]) -> None:
    """Keep some hidden neurons of a block's MLP, in place.

    Args:
        block: the library's block.
        neurons: which, in the order that they get.
    """
    first, second = mlp_layers(block)
    index = torch.as_tensor(list(neurons))
    keep_entries(first, "weight", 0, index)
    if first.bias is not None:
        keep_entries(first, "bias", 0, index)
    keep_entries(second, "weight", 1, index)


def keep_blocks(tower: nn.Module, blocks: Sequence[int]) -> None:
    """Keep some blocks of a tower, in place.

    Args:
        tower: a timm VisionTransformer, an open_clip VisionTransformer, TextTransformer or CLIP.
        blocks: which, ascending.

    Raises:
        NotSupported: a tower whose blocks have no place that is known here.
    """
    owner, name = _block_list(tower)
    rows = getattr(owner, name)
    setattr(owner, name, type(rows)(*(rows[i] for i in blocks)) if isinstance(rows, nn.Sequential) else
            nn.ModuleList([rows[i] for i in blocks]))  # fmt: skip
    if hasattr(owner, "layers"):
        owner.layers = len(blocks)


def _block_list(tower: Any) -> tuple[Any, str]:
    """The module that owns a tower's blocks, and their name in it."""
    trunk = getattr(tower, "trunk", tower)
    for owner, name in ((trunk, "blocks"), (getattr(tower, "transformer", None), "resblocks")):
        if isinstance(getattr(owner, name, None), (nn.Sequential, nn.ModuleList)):
            return owner, name
    raise NotSupported(f"{type(tower).__name__} has no row of blocks that could be shortened")


# -- the record ------------------------------------------------------------------------------------------------------


def block_widths(tower: nn.Module) -> list[dict[str, int]]:
    """`heads` and `neurons` of every block of a tower, first to last; nothing for a convolutional one."""
    try:
        owner, name = _block_list(tower)
    except NotSupported:
        return []
    if not all(hasattr(getattr(block, "attn", None), "num_heads") for block in getattr(owner, name)):
        return []  # the stages of a convolutional network
    return [
        {"heads": int(block.attn.num_heads), "neurons": mlp_layers(block)[0].out_features}
        for block in getattr(owner, name)
    ]


def widths_record(backbone: nn.Module, dense: nn.Module) -> dict[str, Any]:
    """How a backbone differs in its widths from the one that its configuration builds; empty where it does not.

    Args:
        backbone: an open_clip model whose heads, neurons, blocks or channels were taken out.
        dense: the same before (it may lie on torch's meta device).

    Returns:
        For `vision` and `text`: `blocks`, the `heads` and `neurons` of every block that is left, and `channels`, the
        sizes (out, in; or the one of a norm) of convolutions, norms and linear layers elsewhere that became narrower.
    """
    record: dict[str, Any] = {}
    for side, tower, full in _towers(backbone, dense):
        entry: dict[str, Any] = {}
        if (blocks := block_widths(tower)) != block_widths(full):
            entry["blocks"] = blocks
        own = dict(_sized(tower))
        channels = {
            name: list(sizes_of(own[name]))
            for name, module in _sized(full)
            if name in own and sizes_of(own[name]) != sizes_of(module)
        }
        if channels:
            entry["channels"] = channels
        if entry:
            record[side] = entry
    return record


def set_widths(backbone: nn.Module, record: Mapping[str, Any]) -> None:
    """Make a new backbone as narrow as a record says, in place: its weights are to be loaded afterwards.

    Args:
        backbone: an open_clip model as its configuration builds it.
        record: of `widths_record`.

    Raises:
        UsageError: the record does not fit: unknown names, more than there is, or sizes that are no whole numbers.
    """
    if not isinstance(record, Mapping) or set(record) - set(SIDES):
        raise UsageError(f"model_cfg.pruned must be a table with vision and text, not {brief(record)}")
    for side, tower, _ in _towers(backbone, backbone):
        entry = record.get(side, {})
        if not isinstance(entry, Mapping) or set(entry) - {"blocks", "channels"}:
            raise UsageError(f"model_cfg.pruned.{side} must be a table with blocks and channels, not {brief(entry)}")
        if "blocks" in entry:
            _set_blocks(tower, entry["blocks"], f"model_cfg.pruned.{side}.blocks")
        _set_channels(tower, entry.get("channels", {}), f"model_cfg.pruned.{side}.channels")


def _set_blocks(tower: nn.Module, widths: Any, where: str) -> None:
    full = block_widths(tower)
    if not full or not isinstance(widths, list) or not 0 < len(widths) <= len(full):
        raise UsageError(f"{where} must list 1 to {len(full)} blocks of this tower, not {brief(widths)}")
    for number, entry in enumerate(widths):
        if not isinstance(entry, Mapping) or set(entry) != {"heads", "neurons"}:
            raise UsageError(f"{where}[{number}] must have heads and neurons, not {brief(entry)}")
        for name, value in entry.items():
            _check_size(value, full[number][name], f"{where}[{number}].{name}")
    keep_blocks(tower, range(len(widths)))
    owner, name = _block_list(tower)
    for block, entry in zip(getattr(owner, name), widths, strict=True):
        keep_heads(block, range(entry["heads"]))
        keep_neurons(block, range(entry["neurons"]))


def _set_channels(tower: nn.Module, channels: Any, where: str) -> None:
    if not isinstance(channels, Mapping):
        raise UsageError(f"{where} must be a table of layers and their sizes, not {brief(channels)}")
    layers = dict(_sized(tower))
    for name, sizes in channels.items():
        if name not in layers:
            raise UsageError(f"{where}: this tower has no layer {brief(name)}")
        module, full = layers[name], sizes_of(layers[name])
        if not isinstance(sizes, list) or len(sizes) != len(full):
            raise UsageError(f"{where}.{name} must be {len(full)} numbers, not {brief(sizes)}")
        for size, most in zip(sizes, full, strict=True):
            _check_size(size, most, f"{where}.{name}")
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        for dim, size in enumerate(sizes[:1] if depthwise else sizes):
            keep_entries(module, "weight", dim, torch.arange(size))
        for tensor in ("bias", "running_mean", "running_var"):
            if isinstance(getattr(module, tensor, None), Tensor):
                keep_entries(module, tensor, 0, torch.arange(sizes[0]))


def _check_size(value: Any, most: int, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(f"{where} must be a whole number from 1 to {most}, got {brief(value)}")


def _towers(backbone: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """`vision` and `text` with the two backbones' towers; only towers that open_clip's configuration describes."""
    for side, name in SIDES.items():
        yield side, getattr(backbone, name, backbone), getattr(other, name, other)


def _sized(tower: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Convolutions, norms and linear layers outside a tower's transformer blocks, and of no tower inside it."""
    skip: tuple[str, ...] = ()
    if block_widths(tower):
        owner, name = _block_list(tower)
        inside = next(prefix for prefix, module in tower.named_modules() if module is getattr(owner, name))
        skip = (f"{inside}.",)
    if hasattr(tower, "visual"):  # an open_clip CLIP, which is its own text tower
        skip = (*skip, "visual.")
    for name, module in tower.named_modules():
        known = isinstance(module, (nn.Linear, nn.Conv2d, nn.BatchNorm2d))
        if known and not name.startswith(skip or ("\0",)):
            yield name, module


def sizes_of(module: nn.Module) -> tuple[int, ...]:
    """(out, in) of a linear layer or convolution, (channels,) of a norm."""
    for kind, names in SIZES.items():
        if isinstance(module, kind):
            return tuple(int(getattr(module, name)) for name in names)
    raise NotSupported(f"{type(module).__name__} is no layer whose widths are recorded")
