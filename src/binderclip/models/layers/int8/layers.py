"""Layers with int8 weights and activations on the CPU, by PyTorch's own kernels; a state dict holds their codes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError

__all__ = ["Int8Conv2d", "Int8Embedding", "Int8Layer", "Int8Linear", "check_float_weights", "int8_layers", "put_layers"]

M = TypeVar("M", bound=nn.Module)
NO_GRADIENT = "int8 layers pass no gradient: give the float model that this one was made of"


class _WithoutGradient(torch.autograd.Function):
    """A product in the graph, of which no gradient can be asked: what only looks at maps runs, the rest is refused."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        return product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise NotSupported(NO_GRADIENT)


class Int8Layer(nn.Module, ABC):
    """Base of the layers whose weights are int8 codes, symmetric about 0, with a scale for every output.

    It runs on the CPU and passes no gradient. Its state dict holds the codes themselves, so a model that is saved and
    loaded computes the same to the bit.

    Attributes:
        weight: the quantised weights as float32, made anew at every access.
    """

    # What open_clip asks for the dtype to compute in, instead of `weight`.
    int8_original_dtype = torch.float32

    @abstractmethod
    def codes(self) -> tuple[Tensor, Tensor]:
        """Weights as int8, in the shape of `weight`, and the scale of each output as float32 (outputs,)."""

    @abstractmethod
    def take_codes(self, codes: Tensor, scale: Tensor, state: dict[str, Tensor]) -> None:
        """Compute with other codes.

        Args:
            codes: int8, in the shape of `weight`. scale: float32, of each output.
            state: what else `further_state` gives.
        """

    def further_state(self) -> dict[str, Tensor]:
        """What else is saved, by name."""
        return {}

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Outputs in float32, without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs in float32.

        Raises:
            NotSupported: where a gradient is asked for, in the backward pass.
        """
        if x.requires_grad and torch.is_grad_enabled():
            return _WithoutGradient.apply(x, self.product)  # type: ignore[no-untyped-call]
        return self.product(x)

    @property
    def weight(self) -> Tensor:
        """The weights that it computes with, in float32."""
        codes, scale = self.codes()
        return codes * scale.view(-1, *[1] * (codes.ndim - 1))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        codes, scale = self.codes()
        state = {"int8_codes": codes, "int8_scale": scale, **self.further_state()}
        destination.update({prefix + name: tensor for name, tensor in state.items()})

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        codes, scale = self.codes()
        own = {"int8_codes": codes, "int8_scale": scale, **self.further_state()}
        missing = [prefix + name for name in own if prefix + name not in state_dict]
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] not in own]
        given = {name: state_dict[prefix + name] for name in own if prefix + name in state_dict}
        for name, tensor in given.items():
            if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
                error_msgs.append(
                    f"{prefix + name} is {tensor.dtype} of shape {tuple(tensor.shape)}, not {own[name].dtype} of shape "
                    f"{tuple(own[name].shape)}"
                )
                return
        missing_keys += missing
        if not missing:
            self.take_codes(given.pop("int8_codes"), given.pop("int8_scale"), given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Layer:
        # The packed weights never change, and rounding them anew would not give the same codes.
        duplicate = type(self).__new__(type(self))
        nn.Module.__init__(duplicate)
        own = set(vars(nn.Module()))
        duplicate.__dict__.update({name: value for name, value in vars(self).items() if name not in own})
        duplicate.training = self.training
        memo[id(self)] = duplicate
        return duplicate


def rounded(weight: Float[Tensor, "O *inputs"]) -> tuple[Int[Tensor, "O *inputs"], Float[Tensor, "O"]]:
    """Weights as int8 codes and the scale of each output.

    Raises:
        NotSupported: no float32 on the CPU.
        UsageError: they are not all finite.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise NotSupported(f"int8 kernels take float32 on the CPU, got {weight.dtype} on {weight.device}")
    weight = weight.detach()
    largest = weight.flatten(1).abs().amax(dim=1)
    if not bool(largest.isfinite().all()):
        raise UsageError("the weights are not all finite")
    # As torch.ao's PerChannelMinMaxObserver: 255 steps from -largest to largest; a row of zeros needs some step.
    scale = (largest / 127.5).clamp(min=torch.finfo(torch.float32).eps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # see as_quantized
        zero = torch.zeros(len(scale), dtype=torch.long)
        return torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8).int_repr(), scale


def as_quantized(codes: Tensor, scale: Tensor) -> Tensor:
    """Codes as the quantised tensor that torch's kernels are given."""
    with warnings.catch_warnings():
        # PyTorch warns that it will drop this tensor type; the kernels have no other input yet.
        warnings.simplefilter("ignore", UserWarning)
        zero = torch.zeros(len(scale), dtype=torch.long)
        return torch._make_per_channel_quantized_tensor(codes.contiguous(), scale.double(), zero, 0)


class Int8Linear(Int8Layer):
    """A linear layer whose product is one of int8 weights and int8 activations, accumulated in int32.

    Weights are symmetric about 0 with a scale for every output; activations are quantised at every call, within the
    range of the batch. It runs on the CPU and passes no gradient.

    Args:
        weight: float32, of shape (out, in).
        bias: of shape (out,), added in float32, or None.

    Attributes:
        weight: the quantised weights as float32, made anew at every access.

    Raises:
        NotSupported: a weight that is no float32 on the CPU.
        UsageError: weights that are not finite.
    """

    def __init__(self, weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None = None) -> None:
        super().__init__()
        codes, scale = rounded(weight)
        self.out_features, self.in_features = weight.shape
        self.take_codes(codes, scale, {} if bias is None else {"bias": bias.detach().float()})

    def take_codes(self, codes: Tensor, scale: Tensor, state: dict[str, Tensor]) -> None:
        self._packed = torch.ops.quantized.linear_prepack(as_quantized(codes, scale), state.get("bias"))

    def codes(self) -> tuple[Tensor, Tensor]:
        weight = torch.ops.quantized.linear_unpack(self._packed)[0]
        return weight.int_repr(), weight.q_per_channel_scales().float()

    def further_state(self) -> dict[str, Tensor]:
        return {} if self.bias is None else {"bias": self.bias}

    @property
    def bias(self) -> Float[Tensor, "O"] | None:
        """The bias, in float32, or None."""
        return torch.ops.quantized.linear_unpack(self._packed)[1]

    def product(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        # Activations of 7 bits: on CPUs without VNNI two products of 8 bits overflow the int16 that they are added in.
        return torch.ops.quantized.linear_dynamic(x.float(), self._packed, True)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.in_features}, {self.out_features}"


class Int8Conv2d(Int8Layer):
    """A convolution of int8 weights and int8 activations, whose ranges were observed before.

    Weights are symmetric about 0 with a scale for every output channel; inputs have 7 bits and outputs 8 within their
    observed ranges, beyond which outputs are clipped. It runs on the CPU and passes no gradient.

    Args:
        layer: whose weights and geometry are taken; zeros as padding.
        inputs, outputs: smallest and largest number that goes in and comes out.

    Raises:
        NotSupported: a layer that is no float32 on the CPU, pads otherwise.
        UsageError: weights or ranges that are not finite.
    """

    def __init__(self, layer: nn.Conv2d, inputs: tuple[float, float], outputs: tuple[float, float]) -> None:
        super().__init__()
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise NotSupported(f"int8 convolutions pad with a number of zeros, not {layer.padding_mode!r}")
        codes, scale = rounded(layer.weight)
        self.stride, self.padding, self.dilation = list(layer.stride), list(layer.padding), list(layer.dilation)
        self.groups, self.in_channels, self.out_channels = layer.groups, layer.in_channels, layer.out_channels
        self.kernel_size = layer.kernel_size
        ranges = torch.tensor([inputs, outputs], dtype=torch.float32)
        if not bool(ranges.isfinite().all()):
            raise UsageError(f"the ranges {inputs} and {outputs} are not finite")
        bias = {} if layer.bias is None else {"bias": layer.bias.detach().float()}
        self.take_codes(codes, scale, {"int8_ranges": ranges, **bias})

    def take_codes(self, codes: Tensor, scale: Tensor, state: dict[str, Tensor]) -> None:
        self.int8_ranges = state["int8_ranges"].clone()
        # Zero is a code in both, as padding and ReLU need it. 127 steps of 255 for what comes in: see Int8Linear.
        (self._in_step, self._in_zero), (self._out_step, self._out_zero) = (
            _grid(ends, steps) for ends, steps in zip(self.int8_ranges, (127, 255), strict=True)
        )
        self._packed = torch.ops.quantized.conv2d_prepack(
            as_quantized(codes, scale), state.get("bias"), self.stride, self.padding, self.dilation, self.groups
        )

    def codes(self) -> tuple[Tensor, Tensor]:
        weight = torch.ops.quantized.conv2d_unpack(self._packed)[0]
        return weight.int_repr().contiguous(), weight.q_per_channel_scales().float()

    def further_state(self) -> dict[str, Tensor]:
        return {"int8_ranges": self.int8_ranges, **({} if self.bias is None else {"bias": self.bias})}

    @property
    def bias(self) -> Float[Tensor, "O"] | None:
        """The bias, in float32, or None."""
        return torch.ops.quantized.conv2d_unpack(self._packed)[1]

    def product(self, x: Float[Tensor, "B I h w"]) -> Float[Tensor, "B O H W"]:
        codes = torch.quantize_per_tensor(x.float(), self._in_step, self._in_zero, torch.quint8)
        return torch.ops.quantized.conv2d(codes, self._packed, self._out_step, self._out_zero).dequantize()

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={tuple(self.stride)}"


def _grid(ends: Float[Tensor, "2"], steps: int) -> tuple[float, int]:
    """Step and code of zero of a grid with so many steps between two ends and zero, as torch.ao's MinMaxObserver."""
    low, high = ends[0].clamp(max=0), ends[1].clamp(min=0)
    step = ((high - low) / steps).clamp(min=torch.finfo(torch.float32).eps)
    return float(step), int((-low / step).round().clamp(0, steps))


class Int8Embedding(Int8Layer):
    """A table of vectors in int8, with a scale for every row; what is looked up is float32.

    Args:
        weight: float32, of shape (rows, width).

    Raises:
        NotSupported: a table that is no float32 on the CPU.
        UsageError: numbers that are not finite.
    """

    def __init__(self, weight: Float[Tensor, "N D"]) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.take_codes(*rounded(weight), {})

    def take_codes(self, codes: Tensor, scale: Tensor, state: dict[str, Tensor]) -> None:
        self._codes, self._scale = codes.clone(), scale.clone()

    def codes(self) -> tuple[Tensor, Tensor]:
        return self._codes, self._scale

    def product(self, x: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        return self._codes[x] * self._scale[x].unsqueeze(-1)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


def int8_layers(module: nn.Module) -> list[str]:
    """Names of the layers of a module that compute in int8."""
    return [name for name, layer in module.named_modules() if isinstance(layer, Int8Layer)]


def check_float_weights(module: nn.Module, what: str) -> None:
    """Refuse what changes weights or reads them as numbers, for a model whose weights are int8 codes.

    Args:
        module: the model.
        what: the caller, for the message.

    Raises:
        NotSupported: it has int8 layers.
    """
    if int8_layers(module):
        raise NotSupported(f"{what} computes in int8, and this works on float weights: give the model it was made of")


def put_layers(module: M, layers: Iterable[tuple[str, nn.Module]]) -> M:
    """Put layers in the places of others, in place.

    Args:
        module: that has them.
        layers: name of the place, and the new layer.
    """
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer)
    return module
