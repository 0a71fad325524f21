"""A small convolutional network from a list of its operations, as files of TensorFlow Lite hold them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import CheckpointError

__all__ = ["OPERATIONS", "OperationGraph"]


def _convolved(x: Tensor, about: Mapping[str, Any], weight: Tensor, bias: Tensor) -> Float[Tensor, "B D h w"]:
    """A convolution, padded as TensorFlow's "SAME" where it says so."""
    stride, groups = int(about["stride"]), x.shape[1] if about["depthwise"] else 1
    if about["same"]:
        # Of an odd number of pixels the larger half is added below and on the right.
        padding: list[int] = []
        for side, kernel in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):  # width first, as `pad` wants it
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            padding += [total // 2, total - total // 2]
        x = functional.pad(x, padding)
    return functional.conv2d(x, weight, bias, stride=stride, groups=groups)


def _doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "B D H W"]:
    """A transposed convolution of stride 2, by whose kernels of 2 x 2 pixels no two places overlap."""
    return functional.conv_transpose2d(x, weight, bias, stride=2)


def _spread(x: Float[Tensor, "B D h w"], about: Mapping[str, Any]) -> Float[Tensor, "B d H W"]:
    """Depth to space: blocks of channels become neighbouring pixels; unlike `pixel_shuffle`, the block counts first."""
    block = int(about["block"])
    batch, depth, height, width = x.shape
    x = x.reshape(batch, block, block, depth // block**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, depth // block**2, height * block, width * block)


def _resized(x: Float[Tensor, "B D h w"], about: Mapping[str, Any]) -> Float[Tensor, "B D H W"]:
    """Bilinear at the centres of pixels."""
    size = (int(about["size"][0]), int(about["size"][1]))
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": lambda inputs, about, weights: _convolved(inputs[0], about, *weights),
    "transposed": lambda inputs, about, weights: _doubled(inputs[0], *weights),
    "pad": lambda inputs, about, weights: functional.pad(inputs[0], [int(side) for side in about["sides"]]),
    "add": lambda inputs, about, weights: inputs[0] + inputs[1],
    "multiply": lambda inputs, about, weights: inputs[0] * inputs[1],
    "relu": lambda inputs, about, weights: inputs[0].relu(),
    "hard_swish": lambda inputs, about, weights: functional.hardswish(inputs[0]),
    "sigmoid": lambda inputs, about, weights: inputs[0].sigmoid(),
    "mean": lambda inputs, about, weights: inputs[0].mean((2, 3), keepdim=True),
    "resize": lambda inputs, about, weights: _resized(inputs[0], about),
    "spread": lambda inputs, about, weights: _spread(inputs[0], about),
}
"""What an entry's "operation" may be: a function of the inputs, the entry and its weights."""


class OperationGraph(nn.Module):
    """A network as a list of operations, each with the numbers of its inputs and of its output.

    Args:
        operations: in order, each with "operation" (of `OPERATIONS`), "inputs" and "output", and what it needs: for
            "conv" also "stride", "depthwise" and "same"; "relu" rectifies what is made. The picture is number 0.
        outputs: numbers of what is returned.
        state: weights by name, "3.weight" and "3.bias" of operation 3.

    Raises:
        CheckpointError: an operation that there is not, or one whose input nothing makes.
    """

    def __init__(
        self, operations: Sequence[Mapping[str, Any]], outputs: Sequence[int], state: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        made = {0}
        for place, each in enumerate(operations):
            if each["operation"] not in OPERATIONS:
                raise CheckpointError(f"operation {each['operation']!r} is none of {', '.join(OPERATIONS)}")
            if missing := set(each["inputs"]) - made:
                raise CheckpointError(f"operation {place} takes {sorted(missing)}, which nothing before it makes")
            made.add(each["output"])
        if missing := set(outputs) - made:
            raise CheckpointError(f"outputs {sorted(missing)} are made by no operation")
        self.operations, self.outputs = [dict(each) for each in operations], tuple(outputs)
        self.last = {number: place for place, each in enumerate(self.operations) for number in each["inputs"]}
        for name, value in state.items():
            number, kind = name.split(".")
            self.register_buffer(f"{kind}_{number}", value.float())

    def forward(self, x: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """The outputs, of a picture of the size and range that the network was made for."""
        values: dict[int, Tensor] = {0: x}
        for place, each in enumerate(self.operations):
            weights = [
                getattr(self, f"{kind}_{place}") for kind in ("weight", "bias") if hasattr(self, f"{kind}_{place}")
            ]
            inputs = [values[number] for number in each["inputs"]]
            made = OPERATIONS[each["operation"]](inputs, each, weights)
            values[each["output"]] = made.relu() if each.get("relu") else made
            # What nothing later takes is let go of: the maps of the first layers are the largest.
            for number in set(each["inputs"]) - set(self.outputs):
                if self.last[number] == place:
                    values.pop(number, None)
        return [values[number] for number in self.outputs]
