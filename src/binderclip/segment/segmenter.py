"""Open-vocabulary segmentation: one pipeline of replaceable parts, and presets that fill them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.last_block import Context, LastBlock, vanilla
from binderclip.segment.resolution import Resolution, Whole
from binderclip.segment.result import Segmentation, as_classes, label_map

#: (image (1, 3, H, W), class scores (C, h, w), the last context) -> class scores
Refine: TypeAlias = "Callable[[Tensor, Tensor, Context], Tensor]"


@dataclass(frozen=True)
class ClassRule:
    """From cosines of queries (words) to class logits.

    Args:
        scale: factor on the cosines; None for the model's own.
        threshold: pixels whose best probability is below it stay unsegmented (-1).
    """

    scale: float | None = None
    threshold: float = 0.0

    def __call__(
        self, cosines: Float[Tensor, "Q h w"], owner: Sequence[int], count: int, scale: float
    ) -> Float[Tensor, "C h w"]:
        """Each class takes the best of its words."""
        index = torch.tensor(list(owner), device=cosines.device)[:, None, None].expand_as(cosines)
        best = cosines.new_full((count, *cosines.shape[1:]), -torch.inf).scatter_reduce(0, index, cosines, "amax")
        return (scale if self.scale is None else self.scale) * best


PRESETS: dict[str, dict[str, Any]] = {
    "plain": {"last_block": LastBlock(vanilla, residual=True, mlp=True)},
    "value": {"last_block": LastBlock()},
}
"""Parts of each preset: `plain` is the tower's ordinary patch tokens, `value` the value path of its last block."""


class Segmenter:
    """Labels every pixel of an image by the closest of some texts; nothing is trained.

    Patch tokens of an image-text model lie in the space of the texts, but its last attention mixes them into one
    summary. The presets rewire that block; `value` lets every token keep its own value (MaskCLIP).

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        preset: `value` or `plain`; the other arguments replace single parts of it.
        size: shorter side in pixels at which the model sees the image; short for `resolution=Whole(size)`.
        background: words for what is none of the labels; together they are one class, the first, named `background`.
        templates: around every label, as in `text_bank`.
        last_block, resolution, rule, refine: the parts; None for the preset's.

    Raises:
        UsageError: an unknown preset, or `size` beside `resolution`.
        NotSupported: the model's image tower cannot be opened.

    Paper of the value path: Zhou et al., Extract Free Dense Labels from CLIP (ECCV 2022).
    """

    def __init__(
        self,
        model: Any,
        preset: str = "value",
        *,
        size: int | None = None,
        background: Sequence[str] = (),
        templates: str | Sequence[str] | None = None,
        last_block: Callable[[Context], Tensor] | None = None,
        resolution: Resolution | None = None,
        rule: ClassRule | None = None,
        refine: Refine | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise UsageError(f"preset {preset!r} is unknown; there are {', '.join(sorted(PRESETS))}")
        if size is not None and resolution is not None:
            raise UsageError("size is short for resolution=Whole(size): give one of them")
        if isinstance(background, str):
            raise UsageError(f"background must be a list of words, not the text {background!r}")
        parts = PRESETS[preset]
        self.model, self.preset = model, preset
        self.tower = model.image_tower
        self.background, self.templates = tuple(background), templates
        self.last_block = last_block if last_block is not None else parts["last_block"]
        self.resolution = resolution or (Whole(size) if size is not None else parts.get("resolution", Whole()))
        self.rule = rule or parts.get("rule", ClassRule())
        self.refine = refine or parts.get("refine")

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)}" for name in ("last_block", "resolution", "rule", "refine"))
        return f"Segmenter({getattr(self.model, 'name', self.model)!r}, {self.preset!r}, {parts})"

    @torch.no_grad()
    def __call__(self, image: Any, labels: Sequence[str] | Mapping[str, Sequence[str]]) -> Segmentation:
        """Segment one image.

        Args:
            image: anything `data.open_image` takes, or a float tensor (3, H, W) or (1, 3, H, W) in [0, 1].
            labels: class names, or class name -> its words (a pixel takes the best of them).

        Raises:
            UsageError: no label, an empty or doubled one, one that is also the background, or several images.
            DataError: the image cannot be read.
        """
        picture, pixels = _opened(image)
        classes, rows, owner = self._queries(labels)
        training, last = self.model.training, []
        self.model.eval()
        try:

            def score(batch: Tensor) -> Tensor:
                context = self.context(batch)
                last.append(context)
                features = F.normalize(self.last_block(context).float(), dim=1)
                return torch.einsum("behw,qe->bqhw", features, rows)

            native = min(_pair(self.model.image_size))
            cosines = self.resolution(pixels.to(self.model.device), score, patch=self.tower.patch, native=native)[0]
        finally:
            self.model.train(training)
        scores = self.rule(cosines, owner, len(classes), float(self.model.scale()))
        if self.refine is not None:
            scores = self.refine(pixels, scores, last[-1])
        size = (picture.height, picture.width)
        found = label_map(scores, size, self.rule.threshold)
        return Segmentation(classes, found, scores, picture, background=bool(self.background))

    def context(self, pixels: Float[Tensor, "B 3 h w"]) -> Context:
        """Pixels in [0, 1] -> the stream entering the last block."""
        normal = self.model.preprocess.normalize(pixels).to(self.tower.dtype)
        return Context(self.tower, pixels, self.tower.run(self.tower.embed(normal), stop=-1))

    def _queries(
        self, labels: Sequence[str] | Mapping[str, Sequence[str]]
    ) -> tuple[tuple[str, ...], Float[Tensor, "Q E"], list[int]]:
        """Classes, one row a word, and the class of each word."""
        if isinstance(labels, str):
            raise UsageError(f"labels must be a list of names, not the single text {labels!r}: write [{labels!r}]")
        words = {n: list(labels[n]) for n in labels} if isinstance(labels, Mapping) else {n: [n] for n in labels}
        if not words or (not isinstance(labels, Mapping) and len(words) < len(labels)):
            raise UsageError("labels is empty" if not words else "labels names a class twice")
        if self.background:
            if "background" in words:
                raise UsageError("'background' is both a label and the name of the background class")
            words = {"background": list(self.background), **words}
        flat = [word for own in words.values() for word in own]
        bank = self.model.text_bank(list(dict.fromkeys(flat)), self.templates)
        place = {name: index for index, name in enumerate(bank.names)}
        rows = bank.prototypes()[[place[word] for word in flat]].float()
        owner = [index for index, own in enumerate(words.values()) for _ in own]
        return as_classes(list(words)), rows, owner


def _opened(image: Any) -> tuple[Any, Float[Tensor, "1 3 H W"]]:
    from binderclip.data import open_image, to_tensor

    if isinstance(image, Tensor) and image.ndim == 4:
        if len(image) != 1:
            raise UsageError(f"one image at a time, not a batch of {len(image)}: call the segmenter for each")
        image = image[0]
    if isinstance(image, (list, tuple)):
        raise UsageError("one image at a time: call the segmenter for each")
    picture = open_image(image)
    if isinstance(image, Tensor) and image.is_floating_point():
        return picture, image[None].float()
    return picture, to_tensor(picture)[None]


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
