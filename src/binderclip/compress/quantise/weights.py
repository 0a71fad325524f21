"""Weights in four bits after training, with the biases corrected for what rounding adds."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.compress.quantise.int8 import quantize_dynamic
from binderclip.compress.quantise.octav import Octav
from binderclip.errors import NotSupported, UsageError
from binderclip.models.files.compact import SCALE, SHAPE, dequantise, pack_nibbles, quantise
from binderclip.models.layers.int8.attention import Int8Attention
from binderclip.models.layers.int8.layers import Int8Linear, int8_layers
from binderclip.numeric import check_whole

__all__ = ["PackedWeights", "pack_weight", "quantize_weights"]

LARGEST = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True)
class PackedWeights:
    """The weights of a model as they are stored in few bits.

    Attributes:
        tensors: what a folder keeps, by name (`models.files.compact`): codes, scales and shapes.
        four, eight: names of the weights that have four bits, and eight.
    """

    tensors: dict[str, Tensor]
    four: list[str]
    eight: list[str]


def pack_weight(name: str, weight: Float[Tensor, "O *inputs"], size: int = 64) -> dict[str, Tensor]:
    """A weight in four bits: codes from -8 to 7, two to a byte, with a scale for every block of an output's inputs.

    The clip of each block is that of the least squared error (`Octav`). The blocks of an output are equally long, as
    long as `size` lets them be; a number that is over is filled with zeros.

    Args:
        name: of the weight.
        weight: of any shape, outputs first.
        size: most numbers in a block, at least 2.

    Returns:
        `NAME` (O, blocks, half a block) in uint8, `NAME::scale` (O, blocks) in float16, `NAME::shape`.

    Raises:
        UsageError: numbers that are not finite or too large for scales in float16.
    """
    check_whole("size", size, least=2)
    rows = weight.detach().float().flatten(1)
    blocks = math.ceil(rows.shape[1] / (size - size % 2))
    length = math.ceil(rows.shape[1] / blocks / 2) * 2
    rows = nn.functional.pad(rows, (0, blocks * length - rows.shape[1])).reshape(-1, length)  # (O blocks, length)
    step = Octav(4)(rows)[1] / 8
    if not bool((step <= LARGEST).all()):
        raise UsageError(f"{name} holds numbers that are not finite, or too large for a scale in float16")
    # Rounded first, so that what is divided by is what will be multiplied with; float16 has nothing below 2^-24.
    scale = step.clamp(min=2**-20).half()
    codes = (rows / scale.float()).round().clamp(-8, 7).to(torch.int8)
    return {
        name: pack_nibbles(codes.view(len(weight), blocks, length)),
        name + SCALE: scale.view(len(weight), blocks),
        name + SHAPE: torch.tensor(weight.shape),
    }


def quantize_weights(
    module: nn.Module,
    run: Callable[[nn.Module], object],
    *,
    size: int = 64,
    correct: bool = True,
    exclude: str | Iterable[str] = (),
) -> PackedWeights:
    """Round the weights of a model to four bits, in place, as they will be stored.

    Linear layers, attention, embeddings and convolutions have four bits; convolutions in groups, which have a few
    numbers for every output, have eight. Norms, biases and parameters outside such layers stay as they are. It computes
    in float32 as before, so the folder becomes smaller, and neither time nor memory does.

    Rounding moves the mean of a layer's outputs by (W - rounded W) E[x], which is taken out of its bias where there
    is one (Nagel et al., arXiv 1906.04721): the means E[x] are those of the run.

    Args:
        module: changed in place, and put into evaluation mode.
        run: runs a copy of the module, which it is given, on data like that which the module will see.
        size: most numbers of a block with a scale of its own, see `pack_weight`.
        correct: whether biases are corrected.
        exclude: name patterns (shell wildcards) of layers that stay as they are.

    Returns:
        What is to be stored.

    Raises:
        UsageError: there is nothing to quantise, or numbers that are not finite.
        NotSupported: the model computes in int8, is not in float32 on the CPU, or has an attention that
            `Int8Attention` cannot stand for.
    """
    if int8_layers(module):
        raise NotSupported("the model computes in int8 already: give the float model that it was made of")
    module.eval()
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    chosen = _weights(module, patterns)
    if not chosen:
        raise UsageError("there is nothing to quantise: the module has no linear layer, convolution or embedding")
    parameters = dict(module.named_parameters())
    tensors: dict[str, Tensor] = {}
    four, eight = [], []
    for name in chosen:
        weight = parameters[name].detach()
        if chosen[name]:
            four.append(name)
            tensors |= pack_weight(name, weight, size)
        else:
            eight.append(name)
            tensors |= {key: value.clone() for key, value in quantise({name: weight}).items()}
    values = dequantise(tensors)
    means = _input_means(module, run) if correct else {}
    with torch.no_grad():
        for name, value in values.items():
            bias = parameters.get(name[: -len("weight")] + "bias")
            if bias is not None and name in means:
                bias.add_(_moved_mean(parameters[name] - value, means[name]))
            parameters[name].copy_(value)
    return PackedWeights(tensors, four, eight)


def _weights(module: nn.Module, exclude: tuple[str, ...]) -> dict[str, bool]:
    """Names of the weights that are rounded, and whether to four bits."""
    chosen: dict[str, bool] = {}
    for name, layer in module.named_modules():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude):
            continue
        prefix = f"{name}." if name else ""
        if isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None:
            chosen[f"{prefix}in_proj_weight"] = True
        elif isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            chosen[f"{prefix}weight"] = not isinstance(layer, nn.Conv2d) or layer.groups == 1
    # What is tied to another weight stands under its name; what is as small as its scales is not worth them.
    parameters = dict(module.named_parameters())
    return {name: bits for name, bits in chosen.items() if name in parameters and parameters[name].numel() >= 1024}


def _moved_mean(difference: Float[Tensor, "O I *kernel"], mean: Float[Tensor, "C"]) -> Float[Tensor, "O"]:
    """What rounding took from the mean of each output: the difference of the weights times the mean inputs."""
    if difference.ndim == 2:
        return difference @ mean
    summed = difference.flatten(2).sum(2)  # (O, C / groups): a mean is the same at every place of the kernel
    groups = len(mean) // summed.shape[1]
    per_group = summed.view(groups, -1, summed.shape[1])  # (groups, O / groups, C / groups)
    return torch.einsum("goc,gc->go", per_group, mean.view(groups, -1)).flatten()


def _input_means(module: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, Float[Tensor, "C"]]:
    """Name of a weight -> mean of each of its inputs in a run.

    Attention of torch calls none of its parts, so the run is one of a copy in which they are layers: an int8 one.
    """
    observed = quantize_dynamic(copy.deepcopy(module))
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in observed.named_modules():
            if not isinstance(layer, (nn.Conv2d, Int8Linear)):
                continue
            joint = isinstance(observed.get_submodule(name.rpartition(".")[0]), Int8Attention)
            weight = f"{name}_weight" if joint and name.endswith("in_proj") else f"{name}.weight"

            def note(layer: nn.Module, inputs: Any, weight: str = weight) -> None:
                rows = inputs[0].movedim(1, -1) if isinstance(layer, nn.Conv2d) else inputs[0]
                rows = rows.flatten(0, -2).double()
                sums[weight] = sums.get(weight, 0) + rows.sum(0)
                counts[weight] = counts.get(weight, 0) + len(rows)

            hooks.callback(layer.register_forward_pre_hook(note).remove)
        run(observed)
    return {name: (total / counts[name]).float() for name, total in sums.items()}
