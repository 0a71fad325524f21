"""A detector of generated pictures: views of the picture -> experts -> fusion -> one logit, above 0 for generated."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, VisionModel, load, load_vision
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.folders import bundled_of, folder_kind
from binderclip.quality.forensics.views import Places, View, native_crop

Sampling = Literal["balanced", "mixed", "triplets"]
PictureEncoder = ImageTextModel | VisionModel
Parts = tuple[Tensor, ...]
"""Tensors whose first axis is the picture."""


@dataclass(frozen=True)
class DetectorOutput:
    """What a detector says of B pictures.

    Attributes:
        logit: (B,) above 0 for generated.
        embedding: (B, D) the vector behind it, where there is one.
        tokens: (B, N, W) one vector a patch, where there are patches.
    """

    logit: Float[Tensor, "B"]
    embedding: Float[Tensor, "B D"] | None = None
    tokens: Float[Tensor, "B N W"] | None = None


class Detector(nn.Module, ABC):
    """What all detectors share; a `Predictor` of the classes real and fake, so attacks, maps and probes take it.

    The forward pass has three parts: `view` cuts out what is looked at, `features` is what training never changes (so
    it may be computed once a picture), `read` is what is trained.

    Attributes:
        classes: `real` and `fake`.
        sampling: how training draws pictures: half real and half fake ("balanced"), pairs with patches exchanged
            ("mixed"), or anchor, positive and negative ("triplets").
        model_name: as it was given, or the model's own.
        settings: of the constructor, JSON-like.
        patch: side of the patches of its maps, in pixels.
        model: the model that is looked through. It is no submodule: it is neither trained nor saved, but `to(device)`
            moves it too. A detector that looks at pixels alone has none, and an empty `model_name`.
    """

    patch: int
    side: int
    looks: View
    line: nn.Linear
    classes: ClassVar[list[str]] = ["real", "fake"]  # type: ignore[misc]
    sampling: ClassVar[Sampling] = "balanced"

    def __init__(self, model: PictureEncoder | str | None, settings: dict[str, Any], *, adapted: bool = False) -> None:
        refuse_bare_module(model, "Detector")
        super().__init__()
        self.settings = settings
        self._model: list[PictureEncoder] = []
        self.model_name = ""
        if model is None:
            return
        own = load_image_side(model) if isinstance(model, str) else copy.deepcopy(model) if adapted else model
        # What is the detector's own asks for no gradients; a model that it only looks through stays as it is.
        self._model = [own if own is model else own.eval().requires_grad_(False)]
        self.model_name = model if isinstance(model, str) else model.name

    @property
    def model(self) -> PictureEncoder:
        """The model that is looked through.

        Raises:
            UsageError: there is none.
        """
        if not self._model:
            raise UsageError(f"{type(self).__name__} looks through no model")
        return self._model[0]

    @property
    def decision(self) -> nn.Linear:
        """The layer that gives the logit of generated, its last output."""
        return self.line

    @torch.no_grad()
    def move_threshold_(self, logit: float) -> Detector:
        """Call generated what had a logit above this one so far: from now on that is a logit above 0.

        Args:
            logit: such as `false_alarm_threshold` finds.
        """
        self.decision.bias[-1] -= logit
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Detector:
        """Where the detector goes (`to`, `cuda`), what it looks through goes too."""
        for model in self._model:
            model._apply(fn)
        return super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        """Where the trained part is."""
        return next(self.parameters()).device

    def mapped(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 3 h w"]:
        """The part of a picture that its map covers, at the detector's size; it is looked at as the picture is."""
        if self.looks == "resize":
            return self.model.preprocess.at(self.side).fit(image[None])
        return native_crop(image, self.side)[None]

    @abstractmethod
    def view(self, images: Float[Tensor, "B 3 H W"], places: Places | None = None) -> Parts:
        """Pictures in [0, 1] of one size, as the detector looks at them: tensors that do not depend on that size.

        Args:
            images: in [0, 1].
            places: of the crops (down, along), 0 to 1, one a picture; None for the middle.
        """

    @abstractmethod
    def features(self, views: Parts) -> Parts:
        """The part that training never changes."""

    @abstractmethod
    def read(self, features: Parts) -> DetectorOutput:
        """The trained part."""

    @abstractmethod
    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            features: of B pictures.
            labels: 1 for generated.
            patch_labels: of each patch, where pictures are mixed.
        """

    def output(self, images: Float[Tensor, "B 3 H W"]) -> DetectorOutput:
        """All that the detector says."""
        return self.read(self.features(self.view(images)))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2"]:
        """Logits of real and fake; their difference is `output(images).logit`."""
        logit = self.output(images).logit
        return torch.stack([-logit / 2, logit / 2], 1)

    @torch.no_grad()
    def logits(self, features: Parts, batch_size: int = 64) -> Float[Tensor, "B"]:
        """Logits of features that are there already, in evaluation mode."""
        was, logits = self.training, []
        self.eval()
        for start in range(0, len(features[0]), batch_size):
            logits.append(self.read(tuple(part[start : start + batch_size] for part in features)).logit)
        self.train(was)
        return torch.cat(logits)


def load_image_side(name: str) -> PictureEncoder:
    """A model by name: of `load`, or a tower without a text side of `load_vision` (`small-dino`, `timm:...`, a folder).

    Raises:
        UsageError: an unknown name, or that of a classifier, which has no tower.
    """
    alone = name.startswith("timm:") or name in bundled_of("vision") or folder_kind(name) == "vision"
    encoder = load_vision(name) if alone else load(name)
    assert isinstance(encoder, PictureEncoder)
    return encoder


def checked_side(side: int | None, model: PictureEncoder) -> int:
    """The side that a tower sees: the model's own by default.

    Raises:
        UsageError: no multiple of the tower's patch.
    """
    own = model.image_tower.image_size[0] if side is None else side
    patch = model.image_tower.patch
    if own < patch or own % patch:
        raise UsageError(f"side {side} is no multiple of the patch of {patch} pixels")
    return own
