"""What the activations of groups add to a loss to first order, example by example, in one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.compress.weights.groups import GroupMember, PruneGroups
from binderclip.errors import NotSupported

__all__ = ["WatchedGroups", "watched"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class WatchedReader:
    """A layer that reads groups, and the activations of each of its calls.

    Args:
        member: of the role `read`; along dimension 0 of its weight the activations are what the layer gives, else what
            it takes in.
        examples: dimension of the activations that counts pictures or texts.
        layer: name of the groups' layer, for messages.

    Raises:
        NotSupported: neither a linear layer nor a convolution.
    """

    def __init__(self, member: GroupMember, examples: int, layer: str) -> None:
        module = member.module
        if not isinstance(module, (nn.Linear, *CONVOLUTIONS)) or member.name not in ("weight", "bias"):
            raise NotSupported(
                f"{layer} is read by {type(module).__name__}: gradients are told apart by example in linear layers and "
                "convolutions; take per_example=False"
            )
        self.module, self.layer, self._examples = module, layer, examples
        self._outputs = member.dim == 0
        self._entries = 1 if isinstance(module, CONVOLUTIONS) else -1
        self.calls: list[Tensor] = []

    def hook(self) -> Any:
        """Watch the layer until the handle that this gives is removed."""
        if self._outputs:
            return self.module.register_forward_hook(lambda _, inputs, output: self._watch(output))
        return self.module.register_forward_pre_hook(lambda _, inputs: (self._watch(inputs[0]), *inputs[1:]))

    def _watch(self, activations: Tensor) -> Tensor:
        """The same activations as a tensor of their own, whose gradient comes through this layer alone."""
        if not torch.is_grad_enabled():
            return activations
        own = activations.view_as(activations) if activations.requires_grad else activations.detach().requires_grad_()
        self.calls.append(own)
        return own

    def change(self, activations: Tensor, gradient: Tensor) -> Float[Tensor, "B entries"]:
        """What the activations of one call add to a loss to first order, by example and entry, summed over places."""
        product = activations.detach().float() * gradient.float()
        entries = self._entries % product.ndim
        if self._examples == entries:
            raise NotSupported(f"{self.layer}: the layer that reads it takes in {product.ndim} dimensions: no batch")
        by_example = product.movedim((self._examples, entries), (0, 1))
        return by_example.reshape(*by_example.shape[:2], -1).sum(2).double().cpu()


class WatchedGroups:
    """The groups of some layers while losses are computed and differentiated: see `watched`.

    Args:
        groups: of some layers.

    Raises:
        NotSupported: see `WatchedReader`.
    """

    def __init__(self, groups: Sequence[PruneGroups]) -> None:
        self._readers: dict[tuple[int, int], WatchedReader] = {}
        self._members = {one.name: _readers_of(one) for one in groups}
        for one in groups:
            examples = 0 if _batch_first(one) else 1
            for member in self._members[one.name]:
                self._readers.setdefault(_key(member), WatchedReader(member, examples, one.name))

    def hook(self, stack: ExitStack) -> None:
        """Watch all readers until the stack closes."""
        for reader in self._readers.values():
            stack.callback(reader.hook().remove)

    def take(self, loss: Float[Tensor, ""]) -> dict[str, Float[Tensor, "B G"]]:
        """Differentiate a loss, and forget what ran for it.

        Returns:
            Layer's name -> what each of its groups adds to the loss to first order, by example; layers that the loss
            does not depend on are left out.

        Raises:
            NotSupported: the readers of a layer ran on different numbers of examples, or one did not run although the
                loss depends on its weights.
        """
        calls = [(key, own) for key, reader in self._readers.items() for own in reader.calls]
        idle = [reader for reader in self._readers.values() if not reader.calls]
        inputs = [own for _, own in calls] + [reader.module.weight for reader in idle]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        for reader, gradient in zip(idle, gradients[len(calls) :], strict=True):
            if gradient is not None:
                raise NotSupported(
                    f"{reader.layer}: its weights were used without running the layer that holds them, or before the "
                    "losses were asked for: compute each loss when it is asked for, or take per_example=False"
                )
        changes: dict[tuple[int, int], list[Tensor | None]] = {key: [] for key in self._readers}
        for (key, own), gradient in zip(calls, gradients, strict=False):
            changes[key].append(None if gradient is None else self._readers[key].change(own, gradient))
        for reader in self._readers.values():
            reader.calls.clear()
        layers = {name: _by_group(name, members, changes) for name, members in self._members.items()}
        return {name: change for name, change in layers.items() if change is not None}


_UNEQUAL = (
    "the layers that read it ran on different numbers of examples, so that these cannot be told apart: take "
    "per_example=False"
)


def _by_group(
    layer: str, members: Sequence[GroupMember], changes: Mapping[tuple[int, int], Sequence[Tensor | None]]
) -> Float[Tensor, "B G"] | None:
    """The sum over all that reads a layer, by example and group; None where the loss depends on none of it."""
    runs = [changes[_key(member)] for member in members]
    if len({len(run) for run in runs}) > 1:
        raise NotSupported(f"{layer}: {_UNEQUAL}")
    rows: list[Tensor] = []
    for run in zip(*runs, strict=True):  # one for each time that the model ran
        parts = [
            own.index_select(1, member.index.flatten()).unflatten(1, tuple(member.index.shape)).sum(2)
            for own, member in zip(run, members, strict=True)
            if own is not None
        ]
        if len({len(part) for part in parts}) > 1:
            raise NotSupported(f"{layer}: {_UNEQUAL}")
        rows += [torch.stack(parts).sum(0)] if parts else []
    return torch.cat(rows) if rows else None


@contextmanager
def watched(groups: Sequence[PruneGroups]) -> Iterator[WatchedGroups]:
    """Watch what reads the groups of some layers, inside the context.

    The gradient of an activation is taken where a reader takes it in, so that each reader has its own share. torch's
    `MultiheadAttention` reads its output projection's weight without running that layer; here it runs.

    Args:
        groups: of some layers.

    Raises:
        NotSupported: see `WatchedReader`.
    """
    groups_watched = WatchedGroups(groups)
    attentions = {id(own): own for one in groups for own in _attentions(one)}
    with ExitStack() as stack:
        groups_watched.hook(stack)
        for attention in attentions.values():
            _run_projection(attention, stack)
        yield groups_watched


def _key(member: GroupMember) -> tuple[int, int]:
    return id(member.module), member.dim


def _readers_of(groups: PruneGroups) -> tuple[GroupMember, ...]:
    """One member for each layer that reads: what a layer gives holds its bias already."""
    return tuple({_key(member): member for member in reversed(groups.of_role("read"))}.values())


def _attentions(groups: PruneGroups) -> list[nn.MultiheadAttention]:
    """torch's attention modules around the groups: of a block; of blocks those that the groups are read by."""
    if groups.owner is None:
        return []
    readers = {id(member.module) for member in groups.of_role("read")}
    attentions = [module for module in groups.owner.modules() if isinstance(module, nn.MultiheadAttention)]
    return attentions if groups.kind == "neuron" else [own for own in attentions if id(own.out_proj) in readers]


def _batch_first(groups: PruneGroups) -> bool:
    return all(attention.batch_first for attention in _attentions(groups))


def _run_projection(attention: nn.MultiheadAttention, stack: ExitStack) -> None:
    """Let attention run its output projection as a layer: it gets an identity, and the layer runs on what comes out."""
    projection = attention.out_proj
    identity = nn.Linear(projection.in_features, projection.in_features, bias=False, device="meta")
    identity.weight = nn.Parameter(torch.eye(projection.in_features).to(projection.weight), requires_grad=False)

    def swap(module: Any, inputs: Any) -> None:
        module.out_proj = identity

    def project(module: Any, inputs: Any, output: Any) -> Any:
        module.out_proj = projection
        return None if output is None else (projection(output[0]), *output[1:])  # None where it failed

    stack.callback(setattr, attention, "out_proj", projection)
    stack.callback(attention.register_forward_pre_hook(swap).remove)
    stack.callback(attention.register_forward_hook(project, always_call=True).remove)
