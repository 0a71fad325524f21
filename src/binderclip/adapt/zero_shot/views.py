"""Views: which pictures of each image a zero-shot classifier looks at, and how their scores become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data.images import open_image
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.encode import EncodedImages, key_of
from binderclip.models.image_text.preprocess import as_list, float_batch
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.adapt.heads.base import Terms
    from binderclip.models import ImageTextModel
    from binderclip.segment.output.boxes import Detector

Box = tuple[float, float, float, float]
Merge = Literal["features", "logits"]
Score = Callable[[Tensor], "Terms"]

AT_ONCE = 64
"""Images whose views are held at once."""


@runtime_checkable
class Views(Protocol):
    """Pictures of an image, view 0 first, and the rule that merges what they score."""

    @property
    def features(self) -> Callable[..., EncodedImages]:
        """(model, images, names, score, **options) -> raw features (N, V, d) of the views of each image.

        `names` and `score` are the classifier's, for views that look at the image first.
        """
        ...

    def merge(self, x: Float[Tensor, "N *V d"], score: Score) -> Terms:
        """Terms (N, C) of N images from the features of their views."""
        ...

    def merge_labels(self, probs: Float[Tensor, "N V C"]) -> Float[Tensor, "N C"]:
        """Probabilities of labels that do not exclude each other."""
        ...


class _Cropping:
    """Views that are crops of the original image; a subclass says which in `boxes`."""

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Views of an image of `size` (width, height), as xyxy boxes in pixels."""
        return [(0, 0, *size)]

    def features(
        self,
        model: ImageTextModel,
        images: Any,
        names: Sequence[str] = (),
        score: Score | None = None,
        *,
        batch_size: int = 64,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> EncodedImages:
        """Raw features (N, V, d) of the views of each image.

        Args:
            model: encodes.
            images: one image or many: files, PIL images, arrays or tensors. Crops are cut from the original pixels.
            names, score: not looked at.
            batch_size: pictures that go through the model at once.
            on_error: "skip" leaves unreadable images out and reports them, "raise" stops at the first.

        Raises:
            DataError: an unreadable image.
        """
        refuse_bare_module(model, "_Cropping.features")

        def one(batch: list[Picture], _: list[int]) -> Tensor:
            return encode_crops(model, [(p, self.boxes(size_of(p))) for p in batch], batch_size)

        return encode_opened(model, images, one, on_error)

    def merge(self, x: Float[Tensor, "N *V d"], score: Score) -> Terms:
        """Terms whose logits are averaged over the views."""
        return score(x)

    def merge_labels(self, probs: Float[Tensor, "N V C"]) -> Float[Tensor, "N C"]:
        """(view 0 + the best of the others) / 2, or view 0 where there is no other."""
        if probs.shape[1] == 1:
            return probs[:, 0]
        return (probs[:, 0] + probs[:, 1:].amax(dim=1)) / 2


@dataclass(frozen=True)
class WholeImage(_Cropping):
    """One view: the image as the model sees it."""


#: Tiles a side: 64 are 4,097 passes a picture.
MOST_TILES = 64


@dataclass(frozen=True)
class Tiles(_Cropping):
    """The whole image and n x n equal tiles (pixels that are left over at the right and below are dropped).

    Args:
        n: tiles a side, 1 to 64; 1 is the whole image.
        merge_by: "mean" averages the logits of all views, "max" takes the best view of each class.

    Raises:
        UsageError: n out of range, or an unknown `merge_by`.
    """

    n: int = 3
    merge_by: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or not 1 <= self.n <= MOST_TILES:
            raise UsageError(f"tiles a side must be a whole number from 1 to {MOST_TILES}, not {self.n!r}")
        check_choice("merge_by", self.merge_by, ("mean", "max"))

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """The whole image, then the tiles row by row."""
        if self.n == 1:
            return [(0, 0, *size)]
        w, h = (max(1, side // self.n) for side in size)
        tiles: list[Box] = [(x * w, y * h, (x + 1) * w, (y + 1) * h) for y in range(self.n) for x in range(self.n)]
        return [(0, 0, *size), *tiles]

    def merge(self, x: Float[Tensor, "N *V d"], score: Score) -> Terms:
        """Terms of the mean or the best view."""
        if self.merge_by == "mean" or x.ndim == 2:
            return score(x)
        by_view = {name: t.unflatten(0, x.shape[:2]) for name, t in score(x.flatten(0, 1)).items()}
        # The best view of the sum decides, so that the terms still add up to the logits.
        best = torch.stack(list(by_view.values())).sum(dim=0).argmax(dim=1, keepdim=True)
        return {name: term.gather(1, best).squeeze(1) for name, term in by_view.items()}


@dataclass(frozen=True)
class GuidedCrops:
    """Look once, find the object that the likeliest classes name, and look again at crops around it.

    View 0 is the whole image; its `top_k` classes are the candidates. The best box that the detector finds for them is
    enlarged towards the whole image by each of `margins`, made square, cut from the original pixels, and the crops
    decide among the candidates. Paper: Zero-Shot Visual Classification with Guided Cropping (arXiv 2309.06581).

    Args:
        detector: (PIL image, texts) -> boxes (B, 4) xyxy in pixels and scores (B, T), such as
            `segment.text_detector(model)`; None where `encode` is always given `boxes`.
        margins: 0 is the tight box, 1 the whole image; several are several views.
        top_k: candidates kept from the first look; None keeps all classes.
        merge_by: "features" averages the unit features of the crops, "logits" their scores.
        min_score: boxes below it do not count; without one the whole image is used.

    Raises:
        UsageError: margins outside [0, 1] or none, top_k below 1, or an unknown `merge_by`.
    """

    detector: Detector | None = None
    margins: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    top_k: int | None = 5
    merge_by: Merge = "features"
    min_score: float = -np.inf

    def __post_init__(self) -> None:
        if not len(self.margins) or not all(0 <= a <= 1 for a in self.margins):
            raise UsageError(f"margins are numbers in [0, 1], at least one, not {list(self.margins)}")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top_k must be at least 1, or None for all classes, not {self.top_k}")
        check_choice("merge_by", self.merge_by, ("features", "logits"))

    def __deepcopy__(self, memo: Any) -> GuidedCrops:
        # Nothing in it changes, and a detector may hold a whole model, which scikit-learn's clone would copy.
        return self

    def features(
        self,
        model: ImageTextModel,
        images: Any,
        names: Sequence[str],
        score: Score,
        *,
        boxes: Sequence[Any] | None = None,
        batch_size: int = 64,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> EncodedImages:
        """Raw features (N, 1 + V, d): the whole image, then a crop a margin.

        Args:
            model: encodes.
            images: as everywhere.
            names: of the classes, the texts that the detector searches for.
            score: the classifier's terms, which choose among them for each image.
            boxes: one box an image, xyxy in pixels, or None for the whole image; then nothing is detected.
            batch_size, on_error: as for the other views.

        Raises:
            UsageError: neither a detector nor boxes, or not one box an image.
            DataError: an unreadable image.
        """
        refuse_bare_module(model, "GuidedCrops.features")
        items = _items(images)
        if boxes is None and self.detector is None:
            raise UsageError("GuidedCrops has no detector: pass detector=segment.text_detector(model), or boxes=")
        if boxes is not None and len(boxes) != len(items):
            raise UsageError(f"{len(boxes)} boxes for {len(items)} images: give one box (or None) an image")

        def one(batch: list[Picture], positions: list[int]) -> Tensor:
            whole = encode_crops(model, [(p, [(0, 0, *size_of(p))]) for p in batch], batch_size)
            if boxes is not None:
                detections = [boxes[i] for i in positions]
            else:
                texts = self._candidates(whole[:, 0], names, score)
                detections = [self._detected(p, own) for p, own in zip(batch, texts, strict=True)]
            jobs = [(p, self.crops(box, size_of(p))) for p, box in zip(batch, detections, strict=True)]
            return torch.cat([whole, encode_crops(model, jobs, batch_size)], dim=1)

        return encode_opened(model, items, one, on_error)

    def crops(self, box: Box | None, size: tuple[int, int]) -> list[Box]:
        """The box of each margin in an image of `size` (width, height); None stands for the whole image."""
        w, h = size
        if box is None:
            return [(0, 0, w, h)] * len(self.margins)
        box = (max(box[0], 0), max(box[1], 0), min(box[2], w), min(box[3], h))
        if not (box[0] < box[2] and box[1] < box[3]):
            raise UsageError(f"a box lies outside its image of {w} x {h} pixels, or is empty: {box}")
        return [square(enlarge(box, a, size), size) for a in self.margins]

    def _candidates(self, whole: Float[Tensor, "N d"], names: Sequence[str], score: Score) -> list[list[str]]:
        logits = torch.stack(list(score(whole).values())).sum(dim=0)
        return [[names[c] for c in row] for row in logits.topk(self._k(len(names)), dim=-1).indices.tolist()]

    def _k(self, classes: int) -> int:
        return classes if self.top_k is None else min(self.top_k, classes)

    def _detected(self, picture: Picture, texts: list[str]) -> Box | None:
        assert self.detector is not None
        boxes, scores = self.detector(as_pil(picture), texts)
        best = torch.as_tensor(scores).reshape(len(boxes), -1)
        if not len(boxes) or float(best.max()) < self.min_score:
            return None
        return tuple(float(v) for v in torch.as_tensor(boxes)[int(best.amax(dim=1).argmax())])  # type: ignore[return-value]

    def merge(self, x: Float[Tensor, "N *V d"], score: Score) -> Terms:
        """Terms of the crops; classes that the first look did not keep get minus infinity."""
        if x.ndim != 3 or x.shape[1] < 2:
            raise UsageError(
                f"GuidedCrops takes features (N, 1 + views, d) as `encode` gives them, not {tuple(x.shape)}"
            )
        look = torch.stack(list(score(x[:, 0]).values())).sum(dim=0)
        crops = x[:, 1:]
        if self.merge_by == "features":
            crops = F.normalize(F.normalize(crops, dim=-1).mean(dim=1), dim=-1)
        terms = score(crops)
        keep = look.topk(self._k(look.shape[-1]), dim=-1).indices
        out = torch.full_like(look, -torch.inf).scatter(-1, keep, 0.0)
        return {**terms, "text": terms["text"] + out}

    def merge_labels(self, probs: Float[Tensor, "N V C"]) -> Float[Tensor, "N C"]:
        """The mean over the crops."""
        return probs[:, 1:].mean(dim=1) if probs.shape[1] > 1 else probs[:, 0]


def enlarge(box: Box, margin: float, size: tuple[int, int]) -> Box:
    """A box moved linearly towards the whole image of `size` (width, height): 0 leaves it, 1 is the whole image."""
    x0, y0, x1, y1 = box
    w, h = size
    return (1 - margin) * x0, (1 - margin) * y0, (1 - margin) * x1 + margin * w, (1 - margin) * y1 + margin * h


def square(box: Box, size: tuple[int, int]) -> Box:
    """A box whose shorter side grew to the longer one, shifted into the image of `size` and cut off only where that
    is too small."""
    w, h = size
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    wide, high = min(side, w), min(side, h)
    left = min(max((x0 + x1 - wide) / 2, 0), w - wide)
    top = min(max((y0 + y1 - high) / 2, 0), h - high)
    return left, top, left + wide, top + high


# -- pictures --------------------------------------------------------------------------------------------------

Picture = Image.Image | Tensor
"""An opened image: PIL, or a float tensor (3, H, W) in [0, 1], which stays what it is."""


def size_of(picture: Picture) -> tuple[int, int]:
    """(width, height) in pixels."""
    return (picture.shape[-1], picture.shape[-2]) if isinstance(picture, Tensor) else picture.size


def as_pil(picture: Picture) -> Image.Image:
    """The picture for code that wants PIL."""
    if isinstance(picture, Image.Image):
        return picture
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def crop_box(picture: Picture, box: Box) -> Picture:
    """The pixels of a box, rounded outwards to at least one pixel and kept inside the image."""
    w, h = size_of(picture)
    x0, y0 = min(max(int(np.floor(box[0])), 0), w - 1), min(max(int(np.floor(box[1])), 0), h - 1)
    x1, y1 = max(min(int(np.ceil(box[2])), w), x0 + 1), max(min(int(np.ceil(box[3])), h), y0 + 1)
    if (x0, y0, x1, y1) == (0, 0, w, h):
        return picture
    return picture[:, y0:y1, x0:x1] if isinstance(picture, Tensor) else picture.crop((x0, y0, x1, y1))


def encode_crops(
    model: ImageTextModel, jobs: Sequence[tuple[Picture, Sequence[Box]]], batch_size: int
) -> Float[Tensor, "N V d"]:
    """Raw features of the boxes of each picture, as many for every picture."""
    pictures = [crop_box(picture, box) for picture, boxes in jobs for box in boxes]
    if all(isinstance(p, Image.Image) for p in pictures):
        features = model.encode_files(pictures, batch_size=batch_size, on_error="raise").features
    else:
        with torch.no_grad():
            fitted = torch.cat([model.preprocess(p) for p in pictures])
            features = torch.cat([model.encode_pixels(part) for part in fitted.split(batch_size)])
    return features.unflatten(0, (len(jobs), -1))


def encode_opened(
    model: ImageTextModel,
    images: Any,
    encode: Callable[[list[Picture], list[int]], Tensor],
    on_error: Literal["raise", "skip"] = "raise",
) -> EncodedImages:
    """Open images a few at a time and encode them by `encode(pictures, positions) -> (n, V, d)`."""
    items = _items(images)
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    rows: list[Tensor] = []
    for start in range(0, len(items), AT_ONCE):
        batch: list[Picture] = []
        positions = []
        for position in range(start, min(start + AT_ONCE, len(items))):
            try:
                batch.append(_opened(items[position], model))
                positions.append(position)
            except DataError as error:
                if on_error == "raise":
                    raise
                skipped.append((key_of(items[position], position), str(error)))
        if batch:
            rows.append(encode(batch, positions))
            kept += positions
    features = torch.cat(rows) if rows else torch.zeros(0, 1, model.embed_dim)
    return EncodedImages(features, [items[i] for i in kept], kept, skipped)


def _items(images: Any) -> list[Any]:
    batch = float_batch(images)
    items = list(batch) if batch is not None else as_list(images)
    if not items:
        raise UsageError("images is empty: give at least one")
    return items


def _opened(item: Any, model: ImageTextModel) -> Picture:
    if isinstance(item, Tensor) and item.is_floating_point():
        return item
    return open_image(item, mode="RGB", background=model.preprocess.background)
