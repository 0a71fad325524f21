"""Classifiers of pixels, all with one face.

A `Predictor` is called with images in [0, 1] and gives one logit a class, differentiably; attacks, probes, detectors
and attribution need no more, so they work on zero-shot classifiers, few-shot heads and plain vision networks alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import Preprocess, float_batch
from binderclip.models.text.textbank import Rule, TextBank


@runtime_checkable
class Predictor(Protocol):
    """Images (B, 3, H, W) in [0, 1], any size -> logits (B, K), differentiable; `classes` names the K columns."""

    classes: list[str]

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]: ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Images (B, 3, H, W) in [0, 1] -> raw features, differentiable: an `ImageTextModel`, or one with prompts."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode_image(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]: ...


class ZeroShotPredictor(nn.Module):
    """An image-text model and a fixed set of classes known by text.

    Args:
        model: encodes the images; its weights are used as they are.
        bank: the classes.
        rule: how the sentences of a class become one row.
        scale: factor on the similarities; None is the model's own.
    """

    prototypes: Tensor | None

    def __init__(
        self, model: ImageEncoder, bank: TextBank, *, rule: Rule = "mean-unit", scale: float | None = None
    ) -> None:
        super().__init__()
        refuse_bare_module(model, "ZeroShotPredictor", own=True)
        self.model = model
        self.classes = list(bank.names)
        # Cosines need one row a class alone; another geometry needs its points, which the bank makes.
        self.bank = None if bank.geometry is None else bank.to(model.device)
        self.rule: Rule = rule
        self.register_buffer("prototypes", bank.prototypes(rule).to(model.device) if self.bank is None else None)
        self.scale = float(bank.scale) if scale is None else float(scale)
        self.bias = 0.0 if bank.bias is None else float(bank.bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of images in [0, 1]."""
        return self.from_features(self.model.encode_image(_checked(images)))

    def from_features(self, features: Float[Tensor, "B E"]) -> Float[Tensor, "B K"]:
        """Logits of image features, raw or of length one."""
        if self.prototypes is None:
            assert self.bank is not None
            return self.scale * self.bank.similarities(features, self.rule) + self.bias
        unit = functional.normalize(features, dim=-1)
        return self.scale * (unit @ self.prototypes.to(unit.dtype).T) + self.bias


class ModuleClassifier(nn.Module):
    """A vision network with a classification head as a `Predictor`; made by `classifier`."""

    def __init__(self, module: nn.Module, classes: Sequence[str], preprocess: Preprocess) -> None:
        super().__init__()
        self.module, self.classes, self.preprocess = module, list(classes), preprocess

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Logits of images in [0, 1]."""
        logits = self.module(self.preprocess(_checked(images)))
        if logits.ndim != 2 or logits.shape[1] != len(self.classes):
            raise UsageError(
                f"{type(self.module).__name__} gave {tuple(logits.shape)} for {len(self.classes)} classes: "
                "it must give one logit a class"
            )
        return logits


def classifier(
    module: nn.Module,
    classes: Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    *,
    resize_mode: str = "squash",
    interpolation: str = "bicubic",
) -> ModuleClassifier:
    """Wrap a torchvision or timm network, or any module (B, 3, h, w) -> (B, K), as a `Predictor`.

    Args:
        module: the network; put into eval mode here, its weights untouched.
        classes: names of its K outputs.
        mean: of each channel on the [0, 1] scale; default: the network's own (timm's `default_cfg`), else ImageNet's.
        std: likewise.
        size: input side or (h, w) in pixels; default: the network's own, else 224.
        resize_mode: `squash`, `shortest` or `longest`, as in `Preprocess`.
        interpolation: `bicubic`, `bilinear` or `nearest`.
    """
    own: dict[str, Any] = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    if not isinstance(own, dict):
        own = {}
    if size is None:
        size = tuple(own.get("input_size", (3, 224, 224)))[-2:]  # type: ignore[assignment]
    steps = Preprocess(
        mean=tuple(mean if mean is not None else own.get("mean", (0.485, 0.456, 0.406))),  # type: ignore[arg-type]
        std=tuple(std if std is not None else own.get("std", (0.229, 0.224, 0.225))),  # type: ignore[arg-type]
        resize_mode=resize_mode,  # type: ignore[arg-type]
        interpolation=interpolation,  # type: ignore[arg-type]
    ).at(size)
    if not list(classes):
        raise UsageError("classes is empty: name the outputs of the network")
    return ModuleClassifier(module.eval(), classes, steps)


def _checked(images: Any) -> Float[Tensor, "B 3 H W"]:
    batch = float_batch(images) if isinstance(images, torch.Tensor) else None
    if batch is None:
        raise UsageError(
            "a Predictor takes a float tensor (B, 3, H, W) in [0, 1]; use classify() for files and pictures"
        )
    return batch
