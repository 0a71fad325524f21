"""Inference in int8 on the CPU: layers exchanged without data, or with the ranges and the layers that data shows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.layers.int8.attention import as_int8
from binderclip.models.layers.int8.layers import put_layers

__all__ = ["quantize_calibrated", "quantize_dynamic"]

M = TypeVar("M", bound=nn.Module)
LEAST_CHANNELS = 64
"""Input channels of a convolution from which int8 is the faster one; measured with one thread on a CPU with VNNI."""


def quantize_dynamic(module: M, *, exclude: str | Iterable[str] = ()) -> M:
    """Let every linear layer and every attention of a model compute in int8 on the CPU.

    Linear layers become `Int8Linear`, `torch.nn.MultiheadAttention` becomes `Int8Attention`: `torch.ao.quantization`
    leaves the projections of the latter in float32, most of a text tower's weights. Convolutions, norms, embeddings and
    everything else stay in float32. The weights take a quarter of the memory.

    Args:
        module: changed in place, and put into evaluation mode.
        exclude: name patterns (shell wildcards) of layers that stay as they are.

    Returns:
        The module.

    Raises:
        UsageError: there is nothing to quantise.
        NotSupported: layers that are not in float32 on the CPU, or an attention that `Int8Attention` cannot stand for.

    Examples:
        >>> net = nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 2))
        >>> quantize_dynamic(net, exclude="2")
        Sequential(
          (0): Int8Linear(64, 8)
          (1): GELU(approximate='none')
          (2): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    chosen: dict[str, nn.Linear | nn.MultiheadAttention] = {}
    skipped: tuple[str, ...] = ()
    for name, layer in module.named_modules():
        if name and not name.startswith(skipped or "\0") and isinstance(layer, (nn.Linear, nn.MultiheadAttention)):
            if isinstance(layer, nn.MultiheadAttention):  # its output projection is a Linear of its own
                skipped += (f"{name}.",)
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                chosen[name] = layer
    if not chosen:
        raise UsageError("there is nothing to quantise: no nn.Linear or nn.MultiheadAttention lies inside this module")
    # All are made before the first is put in: a layer that is refused leaves the model as it was.
    return put_layers(module, [(name, as_int8(layer)) for name, layer in chosen.items()]).eval()


@dataclass
class LayerRange:
    """What went through a layer.

    Attributes:
        low_in, high_in, low_out, high_out: smallest and largest number that went in and came out; NaN before a call.
    """

    low_in: float = float("nan")
    high_in: float = float("nan")
    low_out: float = float("nan")
    high_out: float = float("nan")

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Take a call into account."""
        (a, b), (c, d) = (torch.aminmax(x.detach()) for x in (inputs, outputs))
        if self.low_in != self.low_in:  # the first call
            self.low_in, self.high_in, self.low_out, self.high_out = float(a), float(b), float(c), float(d)
            return
        self.low_in, self.high_in = min(self.low_in, float(a)), max(self.high_in, float(b))
        self.low_out, self.high_out = min(self.low_out, float(c)), max(self.high_out, float(d))


def quantize_calibrated(
    module: nn.Module, run: Callable[[], object], *, exclude: str | Iterable[str] = ()
) -> list[str]:
    """Let every layer of a model that is used compute in int8 on the CPU, after a look at what goes through it.

    As `quantize_dynamic`, and convolutions of at least 64 input channels without groups as well, with the ranges of
    their inputs and outputs in the run; embeddings become int8 tables. Layers that the run does not call stay as they
    are, and so do depthwise convolutions and those of few channels, which are slower in int8.

    Args:
        module: changed in place, and put into evaluation mode.
        run: runs the model, as a whole, on data like that which it will see.
        exclude: name patterns (shell wildcards) of layers that stay as they are.

    Returns:
        Names of the layers, attention as one.

    Raises:
        UsageError: there is nothing to quantise, or a range that is not finite.
        NotSupported: layers that are not in float32 on the CPU, or an attention that `Int8Attention` cannot stand for.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(64, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, groups=128))
        >>> x = torch.randn(1, 64, 8, 8)
        >>> quantize_calibrated(net, lambda: net(x))
        ['0']
    """
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    ranges: dict[str, LayerRange] = {}
    called: dict[str, nn.Module] = {}
    module.eval()
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in _candidates(module).items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                continue

            def note(layer: nn.Module, inputs: Any, outputs: Any, name: str = name) -> None:
                called[name] = layer
                if isinstance(layer, nn.Conv2d):
                    ranges.setdefault(name, LayerRange()).add(inputs[0], outputs)

            hooks.callback(layer.register_forward_hook(note).remove)
        run()
    if not called:
        raise UsageError("there is nothing to quantise: no layer of this module that could compute in int8 was called")
    made = []
    for name, layer in called.items():
        seen = ranges.get(name)
        ends = () if seen is None else ((seen.low_in, seen.high_in), (seen.low_out, seen.high_out))
        made.append((name, as_int8(layer, *ends)))
    put_layers(module, made)
    return list(called)


def _candidates(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that could compute in int8; the parts of an attention are its own."""
    chosen: dict[str, nn.Module] = {}
    skipped: tuple[str, ...] = ()
    for name, layer in module.named_modules():
        if not name or name.startswith(skipped or "\0"):
            continue
        if isinstance(layer, nn.MultiheadAttention):
            skipped += (f"{name}.",)
        # A convolution that pads in a way of its own (as TensorFlow does) has no int8 form.
        plain = isinstance(layer, nn.Conv2d) and type(layer).forward is nn.Conv2d.forward
        wide = plain and layer.groups == 1 and layer.in_channels >= LEAST_CHANNELS
        if wide or isinstance(layer, (nn.Linear, nn.Embedding, nn.MultiheadAttention)):
            chosen[name] = layer
    return chosen
