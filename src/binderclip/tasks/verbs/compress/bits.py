"""Weights of a model in few bits, calibrated on the pictures that modules are judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from binderclip.compress import quantize_calibrated, quantize_weights
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.layers.int8.attention import Int8Attention, int8_record
from binderclip.models.layers.int8.layers import Int8Conv2d, Int8Embedding, Int8Layer, check_float_weights
from binderclip.tasks.files.results import size_of
from binderclip.tasks.verbs.compress.bits_recovery import CARD, BitsRecovery, stored_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.compress import PackedWeights, PairedSample
    from binderclip.models import ImageTextModel

MAPS = 8
"""Pictures whose dense maps of concepts take part in the calibration; one costs as much as ten whole pictures."""


@dataclass(frozen=True)
class FewerBits:
    """What a model has in few bits.

    Attributes:
        bits: 8 or 4.
        numbers: weights that have them. total: numbers of the model.
        layers: kind of layer -> how many have such weights.
        packed: what is stored in place of float weights, by name in the backbone; nothing where int8 layers hold it.
        recovery: what fine-tuning did, or None.
    """

    bits: int
    numbers: int
    total: int
    layers: dict[str, int]
    packed: dict[str, Tensor] = field(default_factory=dict)
    recovery: BitsRecovery | None = None

    def remarks(self, pictures: str) -> list[str]:
        """What was done and what stays as it was, a sentence each.

        Args:
            pictures: that it was calibrated on, in words.
        """
        layers = ", ".join(number_of(count, kind) for kind, count in self.layers.items())
        if self.bits == 8:
            return [
                f"{self.numbers / self.total:.0%} of the numbers are int8: {layers}. Their products run in int8, by "
                "torch's kernels on the CPU, and pass no gradient; linear layers find the range of their inputs at "
                f"every call, convolutions have those of {pictures}.",
                "In float32 stay norms, position embeddings and projections outside layers, which are small, and "
                "convolutions in groups or of fewer than 64 input channels, which are slower in int8.",
            ]
        return [
            f"{self.numbers / self.total:.0%} of the numbers have 4 bits on disk, two to a byte: {layers}. They are "
            "unpacked to float32 where the model is loaded: 4 bits save room on the disk, no time and no memory.",
            "Convolutions in groups have 8 bits, as they have few numbers for every output; norms, position embeddings "
            "and projections outside layers stay float32. Biases were corrected for the mean that rounding moved, on "
            f"{pictures}.",
            *([] if self.recovery is None else [self.recovery.remark()]),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bits": self.bits, "numbers": self.numbers, "total": self.total, "layers": self.layers,
            "recovery": None if self.recovery is None else self.recovery.as_dict(),
        }  # fmt: skip


def check_float(model: ImageTextModel, bits: int | None) -> None:
    """Refuse a model whose weights have few bits already, where they cannot be rounded again or taken out.

    Args:
        model: that is to become smaller.
        bits: that are asked for.

    Raises:
        NotSupported: it computes in int8.
        UsageError: bits are asked for, and it has them.
    """
    check_float_weights(model, model.name)
    if bits is not None and CARD in model.card:
        raise UsageError(
            f"--bits {bits}: the weights of {model.name} were rounded to {model.card[CARD]} bits already: give the "
            "float model that it was made of"
        )


def fewer_bits(
    model: ImageTextModel,
    sample: PairedSample,
    bits: int,
    sides: tuple[str, ...],
    batch_size: int,
    tune: Callable[[PackedWeights, list[str]], tuple[PackedWeights, BitsRecovery]] | None = None,
) -> FewerBits:
    """Round a model's weights, in place.

    Args:
        model: of open_clip's kind.
        sample: pictures and texts that it is calibrated on.
        bits: 8 or 4.
        sides: towers: `image`, `text`.
        batch_size: pictures or texts at once.
        tune: with 4 bits, given what is stored and which modules were left out, trains the model after it was rounded
            and gives what is to be stored instead.

    Raises:
        UsageError, NotSupported: as `quantize_calibrated` and `quantize_weights`.
    """
    model._cache.clear()  # opened towers hold the layers as they were
    total = sum(parameter.numel() for parameter in model.parameters())

    def run(other: Any) -> None:
        other.encode_image(sample.pixels, batch_size=batch_size)
        other.encode_text(list(sample.texts), batch_size=batch_size)
        if other.concepts is not None:  # its maps are of larger pictures, whose places reach further
            for pixels in sample.pixels[:MAPS].split(1):
                other.concepts.logit_map(pixels.to(other.device))

    left_out = list(_names_outside(model, sides))
    if bits == 8:
        quantize_calibrated(model, lambda: run(model), exclude=left_out)
        towers = model.backbone if model.concepts is None else model.backbone.base
        record = int8_record(towers)  # the classifier's own stands in its settings
        model.config["model_cfg"] = {**model.config["model_cfg"], **({"int8": record} if record else {})}
        int8 = [layer for layer in model.modules() if isinstance(layer, Int8Layer)]
        kinds = Counter(_kind(layer) for layer in _whole_layers(model))
        done = FewerBits(8, sum(layer.codes()[0].numel() for layer in int8), total, dict(kinds))
    else:
        packed = quantize_weights(model, run, exclude=left_out)
        packed, recovery = (packed, None) if tune is None else tune(packed, left_out)
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        kinds = Counter(_kind(model.get_submodule(name.rpartition(".")[0])) for name in packed.four)
        done = FewerBits(
            4, sum(sizes[name] for name in packed.four), total, dict(kinds), stored_tensors(packed), recovery
        )
    model.card[CARD] = bits
    model._cache.clear()
    return done


def stored_size(model: ImageTextModel, packed: dict[str, Tensor]) -> int:
    """Bytes of a model of which some weights are stored in few bits, reckoned as `size_of` does."""
    state = model.backbone.state_dict()
    return size_of(model) + _bytes(packed.values()) - _bytes(state[name] for name in packed if name in state)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _names_outside(model: ImageTextModel, sides: tuple[str, ...]) -> Iterator[str]:
    """Names of the layers that stay as they are: of towers that are not named, and of the probe of photographs.

    That probe has one number a picture, by which all of the classifier is weighted.
    """
    concepts = model.concepts
    image = set(map(id, model.visual.modules()))
    if concepts is not None:
        image |= set(map(id, concepts.modules()))
    for name, layer in model.named_modules():
        probe = concepts is not None and layer is concepts.photograph
        if probe or ("image" if id(layer) in image else "text") not in sides:
            yield name


def _whole_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Layers in int8, attention as one."""
    for name in int8_record(model)["layers"]:
        yield model.get_submodule(name)


def _kind(layer: nn.Module) -> str:
    """What a layer is called."""
    if isinstance(layer, (Int8Attention, nn.MultiheadAttention)):
        return "attention layer"
    if isinstance(layer, (Int8Conv2d, nn.Conv2d)):
        return "convolution"
    return "embedding" if isinstance(layer, (Int8Embedding, nn.Embedding)) else "linear layer"
