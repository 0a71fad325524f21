"""The channels of a convolutional network: which layers' tensors are coupled by sums, norms and depthwise kernels."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from binderclip.compress.weights.groups import GroupMember, PruneGroups, Role, check_untied
from binderclip.errors import NotSupported
from binderclip.models.layers.pruned import SIZES

__all__ = ["channel_groups"]

POINTWISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.Sigmoid, nn.Tanh, nn.Identity,
    nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Modules that treat every channel alone and give zero channels no effect beyond what reads them."""
POINTWISE: set[Any] = {
    F.relu, F.relu6, F.gelu, F.silu, F.leaky_relu, F.elu, F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d,
    torch.relu, torch.sigmoid, torch.tanh, "relu", "relu_", "sigmoid", "tanh", "contiguous", "clone",
}  # fmt: skip
SUMS: set[Any] = {operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, "add", "add_", "mul"}
FLAT: set[Any] = {torch.flatten, "flatten"}
MEANS: set[Any] = {torch.mean, "mean"}
KNOWN = "they go through Conv2d, Linear, BatchNorm2d, activations, pooling, sums and flattening"
"""What an error says of that which can be followed."""
LEAVES = (*SIZES, *POINTWISE_MODULES, nn.Flatten)


@dataclass(eq=False)
class _Channels:
    """The channels of a value in the graph; sums make two one."""

    count: int
    name: str = ""
    fixed: bool = False
    members: list[tuple[nn.Module, str, int, Role, int]] = field(default_factory=list)
    parent: _Channels | None = None

    def root(self) -> _Channels:
        return self if self.parent is None else self.parent.root()

    def join(self, other: _Channels, where: str) -> None:
        """Tie to other channels: they stay or go together."""
        first, second = self.root(), other.root()
        if first is second:
            return
        if first.count != second.count:
            raise NotSupported(f"{where}: values of {first.count} and {second.count} channels are put together")
        second.parent, first.name = first, first.name or second.name
        first.fixed |= second.fixed
        first.members += second.members


class _Tracer(fx.Tracer):
    """Layers whose channels are known are not looked into, whatever library wrote their class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


def channel_groups(network: nn.Module, *, prefix: str = "") -> list[PruneGroups]:
    """The channels of a convolutional network as groups: what produces, normalises and reads one goes with it.

    The network is traced (`torch.fx`), so residual sums tie what they add, batch norms and depthwise convolutions go
    with their channels, and a linear layer behind a flattened map loses all columns of a channel. Channels of the input
    and of the output stay.

    Args:
        network: of convolutions, batch norms, linear layers, activations, pooling, sums and flattening: ResNets,
            MobileNets, the trunk of `small` (`model.visual.trunk.patch_embed.backbone`).
        prefix: put before the layers' names.

    Returns:
        One `PruneGroups` of kind `channel` for each set of layers that are tied, named by its first producer.

    Raises:
        NotSupported: a layer or an operation whose channels are not known (it is named), a convolution in groups that
            is not depthwise, a layer that runs twice, layers that share a parameter, or a network that fx cannot trace.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(network)
    except NotSupported:
        raise
    except Exception as error:  # fx raises whatever the network's own code stumbles over
        raise NotSupported(f"{type(network).__name__} cannot be traced by torch.fx: {error}") from error
    state = _Flow(dict(network.named_modules()))
    for node in graph.nodes:
        state.visit(node)
    roots = {id(c.root()): c.root() for c in state.all if not c.root().fixed and c.root().members}
    groups = [_groups_of(root, prefix) for root in roots.values()]
    groups = [one for one in groups if one.of_role("read") and one.of_role("write")]
    check_untied(groups)
    return groups


class _Flow:
    """Walks the graph from input to output and keeps the channels of every value."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.values: dict[fx.Node, _Channels | None] = {}
        self.all: list[_Channels] = []
        self.used: set[str] = set()

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.values[node] = None  # the input's channels stay
        elif node.op == "output":
            for inner in node.all_input_nodes:
                if (channels := self.values.get(inner)) is not None:
                    channels.root().fixed = True
        elif node.op == "call_module":
            self.values[node] = self._module(str(node.target), node)
        elif node.op in ("call_function", "call_method"):
            self.values[node] = self._call(node)
        else:
            raise NotSupported(
                f"channels: the network reads {node.target!r} itself, whose channels are not known: {KNOWN}"
            )

    def _module(self, name: str, node: fx.Node) -> _Channels | None:
        module, channels = self.modules[name], self._input(node)
        if name in self.used and isinstance(module, tuple(SIZES)):
            raise NotSupported(f"channels: {name} runs twice, so its channels are tied to themselves")
        self.used.add(name)
        if isinstance(module, nn.BatchNorm2d):
            self._add(channels, module, ("weight", "bias", "running_mean", "running_var"), 0, "through")
            return channels
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self._layer(name, module, channels)
        if isinstance(module, (*POINTWISE_MODULES, nn.Flatten)):
            return channels
        raise NotSupported(f"channels of {name} ({type(module).__name__}) are not known: {KNOWN}")

    def _layer(self, name: str, module: nn.Conv2d | nn.Linear, channels: _Channels | None) -> _Channels:
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            if not module.groups == module.in_channels == module.out_channels:
                raise NotSupported(f"channels of {name}: a convolution in {module.groups} groups that is not depthwise")
            if channels is None:
                return self._new(module.out_channels, name, fixed=True)
            self._add(channels, module, ("weight", "bias"), 0, "through")
            return channels
        inputs = module.weight.shape[1]
        if channels is not None:
            root = channels.root()
            if inputs % root.count:
                raise NotSupported(f"{name} takes {inputs} values, which are no multiple of {root.count} channels")
            root.members.append((module, "weight", 1, "read", inputs // root.count))
        made = self._new(module.weight.shape[0], name)
        self._add(made, module, ("weight", "bias"), 0, "write")
        return made

    def _call(self, node: fx.Node) -> _Channels | None:
        target: Any = node.target
        inputs = [self.values.get(inner) for inner in node.all_input_nodes]
        if target in ("size", "dim") or target is getattr:
            return None
        if target in SUMS:
            known = [channels for channels in inputs if channels is not None]
            for other in known[1:]:
                known[0].join(other, f"{node.name}")
            if known and len(known) < len([n for n in node.all_input_nodes if self._is_value(n)]):
                known[0].root().fixed = True  # summed with the input, whose channels stay
            return known[0] if known else None
        if target in FLAT and _argument(node, 1, "start_dim", 0) == 1:
            return inputs[0]
        if target in MEANS and _over_places(_argument(node, 1, "dim", None)):
            return inputs[0]
        if target in POINTWISE:
            return inputs[0]
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        raise NotSupported(f"channels behind {name} ({node.name}) are not known: {KNOWN}")

    @staticmethod
    def _is_value(node: fx.Node) -> bool:
        return node.target not in ("size", "dim") and node.target is not getattr

    def _input(self, node: fx.Node) -> _Channels | None:
        return self.values.get(node.all_input_nodes[0])

    def _new(self, count: int, name: str, *, fixed: bool = False) -> _Channels:
        channels = _Channels(count, name, fixed)
        self.all.append(channels)
        return channels

    @staticmethod
    def _add(channels: _Channels | None, module: nn.Module, names: tuple[str, ...], dim: int, role: Role) -> None:
        if channels is None:
            return
        for name in names:
            if isinstance(getattr(module, name, None), Tensor):
                channels.root().members.append((module, name, dim, role, 1))


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of a call by place or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _over_places(dims: Any) -> bool:
    """Whether a mean goes over rows and columns alone, (2, 3) of (B, C, H, W)."""
    return isinstance(dims, (tuple, list)) and all(dim in (2, 3, -1, -2) for dim in dims)


def _groups_of(channels: _Channels, prefix: str) -> PruneGroups:
    members = []
    for module, name, dim, role, repeat in channels.members:
        # (C, H, W) flattened puts the places of one channel next to each other
        index = torch.arange(channels.count * repeat).view(channels.count, repeat)
        members.append(GroupMember(module, name, dim, index, role))
    return PruneGroups(prefix + channels.name, "channel", tuple(members))
