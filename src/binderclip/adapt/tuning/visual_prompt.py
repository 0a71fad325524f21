"""Visual prompt tuning: a frozen model learns a new task through pixels that all its pictures share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import Terms
from binderclip.adapt.heads.inputs import InputLevel
from binderclip.adapt.heads.through_model import SharedModel
from binderclip.adapt.heads.tuned import Training, Tunable, TunedHead, by_epoch
from binderclip.adapt.tuning.pixel_prompt import (
    REFERENCE,
    PixelPrompt,
    PromptKind,
    frame_entries,
    output_mapping,
    prompt_width,
)
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.freezing import frozen
from binderclip.optim import NormalizedGradient
from binderclip.settings import check_choice

Gradient = Literal["momentum", "normalised", "sign"]

RECIPES: dict[str, dict[str, Any]] = {
    "vp": {
        "around": False, "space": "normalised", "init": "normal", "gradient": "momentum", "flips": False, "lr": 40.0,
        "outputs": "first",
    },
    "evp": {
        "around": True, "space": "pixels", "init": "zeros", "gradient": "normalised", "flips": True, "lr": 70.0,
        "outputs": "frequent",
    },
}  # fmt: skip
"""The published settings; the rate of a normalised gradient is for 69,840 numbers: a frame of 30 in 224 pixels."""

WARMUP = 0.05
"""Share of the steps with a rising rate under `momentum`; the paper's is 1,000 steps."""


@dataclass(kw_only=True, eq=False, repr=False)
class VisualPromptTuning(SharedModel, TunedHead):
    """Learns a pixel prompt for a frozen model, read by its text similarities or by outputs that get new meanings.

    The recipe `vp` adds a random frame to normalised pictures and trains it by SGD with momentum; `evp` lays a black
    frame around the shrunk picture, mirrors pictures at random, and divides the prompt's gradient by its length. Every
    option overrides its recipe.

    Args:
        text_prior, classes, scale: see `FewShotHead`; for an image-text model only. The papers' sentence is
            "this is a photo of a {class}".
        model: the `ImageTextModel`, or a plain classifier made by `models.classifier`; not changed.
        recipe: `vp` or `evp`.
        kind: `frame`, `patch` or `random-patch`; see `PixelPrompt`. When predicting, a random patch lies where the seed
            puts it.
        size: input side in pixels, for a quicker run; default the model's own. Pictures are resized to it.
        width: of the frame or patch in pixels; default 30 / 224 of the size.
        around: shrink the picture and lay the frame around it, or lay it on the picture.
        gradient: `momentum`: as it is, with momentum 0.9, warm-up, and a cosine over the steps; `normalised`: divided
            by its length over the whole picture, or its `sign`; without momentum, with a cosine over the epochs.
        flips: mirror pictures at random while training. Not for digits and letters.
        outputs: which outputs of a plain classifier stand for the classes, see `output_mapping`; default `first` for
            `vp` and `frequent` for `evp`, as their authors do.
        lr: default 40 for `vp`; for `evp` 70 times the square root of the share of 69,840 numbers that the frame has,
            because the rate is a length in pixel space. With `sign` it is what every number moves by, and the default
            makes a step as long as the published one over its whole frame: 40 or 70 over sqrt(69,840), 0.15 or 0.26.
        epochs: passes over the pictures; the papers' 1,000 are for a large machine. The last weights are kept, where
            the papers keep the best on a validation split.
        batch_size: the papers use 256.
        seed: of prompt, batches, flips and places.

    Attributes:
        prompt_: what was learned, (3, S, S). n_trainable_: how many of its numbers.
        outputs_: (C,) outputs in use of a plain classifier, else None.

    Raises:
        UsageError: no model, an option that is unknown or does not fit, a prior missing or beside a plain classifier.

    Paper: Bahng et al., Exploring Visual Prompts for Adapting Large-Scale Models (arXiv 2203.17274); Wu et al.,
    Unleashing the Power of Visual Prompting At the Pixel Level (arXiv 2212.10556).

    Examples:
        >>> head = VisualPromptTuning(model.text_bank(names), model=model, recipe="evp", size=64)  # doctest: +SKIP
        >>> head.fit(features_for(head, model, paths), labels)                                     # doctest: +SKIP
    """

    input_level: ClassVar[InputLevel] = "images"

    model: Any = None
    recipe: Literal["vp", "evp"] = "vp"
    kind: PromptKind = "frame"
    size: int | None = None
    width: int | None = None
    around: bool | None = None
    gradient: Gradient | None = None
    flips: bool | None = None
    outputs: Literal["first", "frequent"] | None = None
    lr: float | None = None
    epochs: int = 50
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "VisualPromptTuning")

    # -- fitting -----------------------------------------------------------------------------------------------

    def _fit(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> None:
        with frozen(self._checked_model()):
            super()._fit(views, targets)
        self.n_trainable_ = self._built().free

    def _checked_model(self) -> nn.Module:
        check_choice("recipe", self.recipe, RECIPES)
        if self.model is None:
            raise UsageError("a visual prompt needs its model: pass model=load(...), or models.classifier(...)")
        if _plain(self.model) and self.prior_ is not None:
            raise UsageError("text_prior goes with an image-text model; a plain classifier has outputs of its own")
        if not _plain(self.model) and self.prior_ is None:
            raise UsageError("text_prior is missing: pass model.text_bank([...]) with the classes' sentences")
        if self._option("gradient") not in ("momentum", "normalised", "sign"):
            raise UsageError(f"gradient must be momentum, normalised or sign, not {self.gradient!r}")
        return self.model

    def _option(self, name: str) -> Any:
        value = getattr(self, name)
        return RECIPES[self.recipe][name] if value is None else value

    def _module(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> Tunable:
        height, width = self.model.preprocess.size
        if self.size is None and height != width:
            raise UsageError(f"the model takes {height} x {width} pixels; a pixel prompt is square: pass size=")
        self.size_ = int(self.size or height)
        around = self._option("around")
        self.width_ = prompt_width(self.size_, self.width, kind=self.kind)
        self.inner_ = self.size_ - 2 * self.width_ if around else None
        prompt = self._blank(RECIPES[self.recipe]["init"])
        self.outputs_ = None
        if _plain(self.model):
            with torch.no_grad():
                shown = torch.cat([self._scores(prompt.place(self._sized(x))) for x in views[:, 0].split(64)])
            self.outputs_ = output_mapping(shown, targets, self._option("outputs"))
        return _Prompted(self, prompt, self._option("flips"), whole=self._option("gradient") != "momentum")

    def _training(self) -> Training:
        gradient = self._option("gradient")
        common: dict[str, Any] = {
            "lr": self._rate(),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
        if gradient == "momentum":
            return Training(optimizer={"name": "sgd", "momentum": 0.9}, warmup=WARMUP, **common)
        return Training(optimizer="sgd", schedule=by_epoch(self.epochs), grad_transform=self._step_rule, **common)

    def _rate(self) -> float:
        if self.lr is not None:
            return float(self.lr)
        lr = float(RECIPES[self.recipe]["lr"])
        if self._option("gradient") == "sign":
            return lr / math.sqrt(frame_entries(*REFERENCE))
        if self._option("gradient") != "normalised" or self.recipe != "evp":
            return lr
        side = int(self.size or self.model.preprocess.size[0])
        width = prompt_width(side, self.width, kind=self.kind)
        entries = frame_entries(side, width) if self.kind == "frame" else 3 * width * width
        return lr * math.sqrt(entries / frame_entries(*REFERENCE))

    def _step_rule(self, parameters: list[Tensor]) -> None:
        """The step's direction: the length is that of the whole picture's gradient, and only then comes the mask."""
        (pixels,) = parameters
        assert pixels.grad is not None
        if self._option("gradient") == "sign":
            pixels.grad.sign_()
        else:
            NormalizedGradient()(parameters)
        pixels.grad.mul_(self._blank("zeros").mask.to(pixels.device))

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _Prompted)
        self.prompt_ = (module.prompt.pixels * module.prompt.mask).detach().cpu().clone()

    # -- predicting --------------------------------------------------------------------------------------------

    def _blank(self, init: Literal["normal", "zeros"]) -> PixelPrompt:
        prompt = PixelPrompt(
            self.size_, self.width_, kind=self.kind, inner=self.inner_, init=init,
            space=RECIPES[self.recipe]["space"], std=self.model.preprocess.std,
        )  # fmt: skip
        return prompt.to(_device(self.model))

    def _built(self) -> PixelPrompt:
        prompt = self._blank("zeros")
        prompt.pixels.requires_grad_(False).copy_(self.prompt_)
        return prompt

    def transform(self, X: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """The prompted pictures, on the scale of [0, 1] but not clipped to it."""
        return self._built()(self._sized(torch.as_tensor(X)), generator=self._places())

    def _places(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _sized(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        images = images.to(_device(self.model))
        return images if self.inner_ is not None else self.model.preprocess.at(self.size_).fit(images)

    def _scores(self, prompted: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B K"]:
        """Logits of pictures that carry a prompt: with the texts, or all outputs of a plain classifier."""
        pixels = self.model.preprocess.normalize(prompted)
        if _plain(self.model):
            return self.model.module(pixels)
        native = tuple(pixels.shape[-2:]) == tuple(self.model.preprocess.size)
        features = self.model.encode_pixels(pixels) if native else self.model.image_tower(pixels).float()
        assert self.prior_ is not None
        # Beyond 100 the original model clamps its scale, too.
        return min(self.scale_, 100.0) * F.normalize(features, dim=-1) @ self.prior_.to(features).T

    def _class_scores(self, prompted: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        scores = self._scores(prompted)
        return scores if self.outputs_ is None else scores[:, self.outputs_.to(scores.device)]

    def _terms(self, x: Float[Tensor, "N 3 H W"]) -> Terms:
        name = "text" if self.outputs_ is None else "outputs"
        with frozen(self.model):
            return {name: self._class_scores(self.transform(x))}


class _Prompted(Tunable):
    """The prompt in front of its head's frozen model."""

    def __init__(self, head: VisualPromptTuning, prompt: PixelPrompt, flips: bool, *, whole: bool) -> None:
        super().__init__()
        self.prompt, self.flips, self.whole = prompt, flips, whole
        self._head = head

    def logits(self, x: Float[Tensor, "B 3 H W"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        if self.flips and self.training:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x)
        return self._head._class_scores(self.prompt(self._head._sized(x), whole=self.whole))


def _plain(model: Any) -> bool:
    """Whether it is a classifier made by `models.classifier` and knows no texts."""
    return not hasattr(model, "encode_pixels")


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
