"""Which tensors a channel, head, neuron or block consists of: what lives or dies together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.pruned import mlp_layers
from binderclip.models.towers import Block, Stack
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["GroupMember", "PruneGroups", "masked", "merged_groups", "tower_groups"]

Kind = Literal["channel", "head", "neuron", "block"]
Role = Literal["write", "through", "read"]


@dataclass(frozen=True, eq=False)
class GroupMember:
    """One tensor of the groups of a layer.

    Attributes:
        module: its owner.
        name: attribute of the parameter or buffer.
        dim: along which the groups are slices.
        index: (G, k) entries along `dim` of each of G groups.
        role: `write` produces the groups' activations, `through` acts on each alone (norms, depthwise convolutions),
            `read` takes them in: with these entries at zero a group adds nothing.
    """

    module: nn.Module
    name: str
    dim: int
    index: Int[Tensor, "G k"]
    role: Role

    @property
    def tensor(self) -> Tensor:
        """The tensor as it is now."""
        return getattr(self.module, self.name)

    def by_group(self, values: Tensor | None = None) -> Float[Tensor, "G n"]:
        """The entries of each group in a row.

        Args:
            values: of the tensor's shape, instead of the tensor itself (its gradient).
        """
        tensor = self.tensor if values is None else values
        chosen = tensor.index_select(self.dim, self.index.flatten().to(tensor.device)).movedim(self.dim, 0)
        return chosen.reshape(len(self.index), -1)


@dataclass(frozen=True, eq=False)
class PruneGroups:
    """The groups of one layer, which compete for their places.

    Attributes:
        name: of the layer, such as `image.0.heads`.
        kind: what one group is: `channel`, `head`, `neuron` (one or several) or `block`.
        members: the tensors that are coupled.
        side: `image` or `text`, where it is part of a tower; else "".
        layer: index of the block in its tower; -1 outside.
        owner: the library's block, or of `block` groups the module that holds the blocks; None for channels.
    """

    name: str
    kind: Kind
    members: tuple[GroupMember, ...]
    side: str = ""
    layer: int = -1
    owner: nn.Module | None = None

    def __len__(self) -> int:
        return len(self.members[0].index)

    def of_role(self, *roles: Role) -> tuple[GroupMember, ...]:
        """Members in these roles."""
        return tuple(member for member in self.members if member.role in roles)

    def parameters(self) -> Int[Tensor, "G"]:
        """Numbers in each group; where two layers' groups cross, the number is counted in both."""
        sizes = [
            member.tensor.numel() // member.tensor.shape[member.dim] * member.index.shape[1]
            for member in self.members
            if isinstance(member.tensor, nn.Parameter)
        ]
        return torch.full((len(self),), sum(sizes), dtype=torch.long)


def tower_groups(tower: Stack, kinds: Sequence[Kind] = ("head", "neuron"), *, side: str = "image") -> list[PruneGroups]:
    """The groups of a transformer tower, block by block.

    A head is its rows of the query, key and value matrices and its columns of the output projection, whose bias stays;
    a neuron its row of the MLP's first matrix and its column of the second; a block both of its branches.

    Args:
        tower: opened image or text tower (`model.image_tower`, `models.open_text_tower(backbone)`).
        kinds: which groups: `head`, `neuron`, `block`.
        side: `image` or `text`, the first part of the groups' names.

    Raises:
        UsageError: another kind, or none.
        NotSupported: attention or an MLP that does not split exactly, or two layers that share one parameter.
    """
    if not kinds:
        raise UsageError("kinds is empty: name head, neuron or block")
    for kind in kinds:
        check_choice("kinds", kind, ("head", "neuron", "block"))
    makers = {"head": _heads, "neuron": _neurons, "block": _whole}
    groups = [
        PruneGroups(
            f"{side}.{layer}.{kind}s", kind, makers[kind](block), side, layer,
            tower.module if kind == "block" else block.module,
        )
        for layer, block in enumerate(tower.blocks)
        for kind in dict.fromkeys(kinds)
    ]  # fmt: skip
    check_untied([one for one in groups if one.kind != "block"])
    check_untied([one for one in groups if one.kind == "block"])
    return groups


def check_untied(groups: Sequence[PruneGroups]) -> None:
    """Refuse layers that share one parameter along one dimension: its groups cannot go from one and stay in another.

    Raises:
        NotSupported: names the two.
    """
    owners: dict[tuple[int, int], str] = {}
    for one in groups:
        for member in one.members:
            key = (id(member.tensor), member.dim)
            other = owners.setdefault(key, one.name)
            if other != one.name:
                raise NotSupported(
                    f"{one.name} is tied to {other} (they share the parameter {member.name!r}), so that none can go "
                    "from one and stay in the other: give each layer a parameter of its own"
                )


def _heads(block: Block) -> tuple[GroupMember, ...]:
    if not block.affine or block.post_norm:
        raise NotSupported(f"{type(block.module).__name__} normalises what its heads give, so none can go by itself")
    d, members = block.head_dim, []
    rows = torch.arange(block.heads * d).view(block.heads, d)
    parts = block.projections()
    joint: dict[tuple[int, str], tuple[Any, list[Tensor]]] = {}
    for key in "qkv":
        part = parts[key]
        if part.stop - part.start != block.heads * d:
            raise NotSupported(f"{type(block.module).__name__} shares keys or values among heads")
        joint.setdefault((id(part.owner), part.name), (part, []))[1].append(rows + part.start)
    for part, index in joint.values():
        members.append(GroupMember(part.owner, part.name, 0, torch.cat(index, 1), "write"))
        bias = "bias" if part.name == "weight" else part.name.replace("weight", "bias")
        if getattr(part.owner, bias, None) is not None:
            members.append(GroupMember(part.owner, bias, 0, torch.cat(index, 1), "write"))
    out = parts["out"]
    return (*members, GroupMember(out.owner, out.name, 1, rows, "read"))


def _neurons(block: Block) -> tuple[GroupMember, ...]:
    first, second = mlp_layers(block.module)
    rows = torch.arange(first.out_features)[:, None]
    members = [GroupMember(first, "weight", 0, rows, "write")]
    if first.bias is not None:
        members.append(GroupMember(first, "bias", 0, rows, "write"))
    return (*members, GroupMember(second, "weight", 1, rows, "read"))


def _whole(block: Block) -> tuple[GroupMember, ...]:
    """A block as one group; it adds nothing where both output layers, biases and all, are at zero."""
    members = []
    for member in (*_heads(block), *_neurons(block)):
        index = torch.arange(member.tensor.shape[0])[None]
        members.append(replace(member, dim=0, index=index))
        if member.role == "read" and member.module.bias is not None:
            members.append(GroupMember(member.module, "bias", 0, index, "read"))
    return tuple(members)


def merged_groups(groups: PruneGroups, order: Int[Tensor, "G"], count: int) -> PruneGroups:
    """Groups put together to `count` equal ones along an order: the first of the order into the first, and so on.

    Which neurons are together is a matter of indices: no row of a matrix is moved.

    Args:
        groups: neurons or channels of one layer.
        order: (G,) each group once, such as by descending score.
        count: groups to be made.

    Raises:
        UsageError: heads or blocks, an order that is none, or a count that does not divide G.
    """
    check_whole("count", count, least=1)
    if groups.kind not in ("neuron", "channel"):
        raise UsageError(f"{groups.name}: neurons and channels are put together, not groups of kind {groups.kind!r}")
    if sorted(order.tolist()) != list(range(len(groups))):
        raise UsageError(f"order must name each of the {len(groups)} groups of {groups.name} once")
    if len(groups) % count:
        raise UsageError(f"{len(groups)} groups of {groups.name} do not make {count} equal ones")
    members = tuple(replace(member, index=member.index[order.cpu()].reshape(count, -1)) for member in groups.members)
    return replace(groups, members=members)


@contextmanager
def masked(groups: Sequence[PruneGroups], keep: Mapping[str, Bool[Tensor, "G"]]) -> Iterator[None]:
    """Take groups out for a while: inside the context what reads them is zero, afterwards everything is as it was.

    A model so masked gives what it gives after `remove`: the biases of what reads stay, all else of a group has no
    effect.

    Args:
        groups: of some layers.
        keep: layer's name -> True for groups that stay; layers that are not named stay whole.

    Raises:
        UsageError: a name that none of the groups has, or a mask of another length.
    """
    check_keep(groups, keep)
    saved: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for one in groups:
                if one.name not in keep or bool(keep[one.name].all()):
                    continue
                for member in one.of_role("read"):
                    tensor = member.tensor
                    gone = member.index[~keep[one.name].cpu()].flatten().to(tensor.device)
                    saved.append((tensor, tensor.detach().clone()))
                    tensor.index_fill_(member.dim, gone, 0)
        yield
    finally:
        with torch.no_grad():
            for tensor, value in reversed(saved):  # the first copy of a tensor is the whole one
                tensor.copy_(value)


def check_keep(groups: Sequence[PruneGroups], keep: Mapping[str, Tensor]) -> None:
    """Refuse masks that do not fit the groups.

    Raises:
        UsageError: see `masked`.
    """
    lengths = {one.name: len(one) for one in groups}
    for name, mask in keep.items():
        if name not in lengths:
            raise UsageError(f"keep names {name!r}, and the layers are {', '.join(list(lengths)[:6])} ...")
        if mask.dtype != torch.bool or tuple(mask.shape) != (lengths[name],):
            raise UsageError(
                f"keep[{name!r}] must be {lengths[name]} truth values, got {mask.dtype} of shape {tuple(mask.shape)}"
            )
