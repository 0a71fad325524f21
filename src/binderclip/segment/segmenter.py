"""Open-vocabulary segmentation: one pipeline of replaceable parts, and presets that fill them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.data.windows import WindowGrid as Layout
from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.towers import Record
from binderclip.models.towers.record import SUM
from binderclip.segment.output.result import Segmentation, label_map
from binderclip.segment.parts.context import Context, Frame, dense_tower, head, open_windows, records, resample
from binderclip.segment.parts.fusion import Fusion, LastOnly, Reader
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import Resolution, Splice, Whole, enlarged, resized
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.parts.text import BoundText, Labels, TextSide
from binderclip.segment.presets import PRESETS
from binderclip.settings import brief

#: (image (1, 3, H, W), class logits (C, h, w), frame) -> class logits (C, h', w'); one whose attribute `before_rule` is
#: true takes the scores of words instead, before the rule
Refine: TypeAlias = "Callable[[Tensor, Tensor, Frame], Tensor]"
#: (labels (H, W), class logits (C, h, w), frame) -> labels (H, W)
Relabel: TypeAlias = "Callable[[Tensor, Tensor, Frame], Tensor]"
#: (spliced tokens (1, D, h, w), frame) -> tokens (1, D, h', w'); between windows and the final norm
Mix: TypeAlias = "Callable[[Tensor, Frame], Tensor]"
#: (context, score of a context, features of a context) -> scores (B, Q, gh, gw): several looks at the same windows
Views: TypeAlias = "Callable[[Context, Callable[[Context], Tensor], Callable[[Context], Tensor]], Tensor]"

PARTS = ("last_block", "fusion", "views", "resolution", "mix", "text", "rule", "refine", "relabel")
RECORDED_BYTES = 256e6
"""Most memory for what is recorded of one batch of windows."""


@dataclass(frozen=True)
class Parts:
    """The parts of a segmenter, in the order in which they act.

    Attributes:
        resolution: resizing and windows.
        last_block: tokens of a window.
        fusion: which layers contribute.
        views: looks at changed copies of the windows.
        mix: what happens to spliced tokens before the final norm (with `merge="tokens"`).
        text: how labels become vectors.
        rule: from words to classes.
        refine: changes of the class logits, one after the other, those with `before_rule` on the scores of words first.
        relabel: changes of the finished label map, one after the other.
    """

    resolution: Resolution = field(default_factory=Whole)
    last_block: Reader = field(default_factory=LastBlock)
    fusion: Fusion = field(default_factory=LastOnly)
    views: Views | None = None
    mix: Mix | None = None
    text: TextSide = field(default_factory=TextSide)
    rule: ClassRule = field(default_factory=ClassRule)
    refine: tuple[Refine, ...] = ()
    relabel: tuple[Relabel, ...] = ()

    @property
    def needs_attention(self) -> bool:
        """Whether a part reads blocks or rewires attention, which convolutional towers do not have."""
        inside = any(getattr(part, "needs_attention", True) for part in (self.last_block, self.fusion))
        return inside or self.mix is not None or bool(self.record.wanted)

    @property
    def record(self) -> Record:
        """What the parts want of the earlier blocks."""
        return records(self.last_block, self.fusion, self.views, self.mix, *self.refine, *self.relabel)


def parts_of(preset: str | Parts, **changes: Any) -> Parts:
    """The parts of a preset (or given ones), some replaced; None replaces nothing.

    Raises:
        UsageError: an unknown preset or part.
    """
    if isinstance(preset, Parts):
        chosen = {name: getattr(preset, name) for name in PARTS}
    elif not isinstance(preset, str):
        raise UsageError(
            f"preset must be a name or Parts, not {brief(preset)}; labels go with the image: segmenter(image, labels)"
        )
    elif preset in PRESETS:
        chosen = dict(PRESETS[preset])
    else:
        close = get_close_matches(preset.lower(), PRESETS, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"preset {preset!r} is unknown; there are {', '.join(sorted(PRESETS))}{meant}")
    chosen |= {name: part for name, part in changes.items() if part is not None}
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no part of a segmenter; there are {', '.join(PARTS)}")
    for name in ("refine", "relabel"):
        if name in chosen and not isinstance(chosen[name], (tuple, list)):
            chosen[name] = (chosen[name],)
        chosen[name] = tuple(chosen.get(name, ()))
    return Parts(**chosen)


class Segmenter:
    """Labels every pixel of an image by the closest of some texts; nothing is trained.

    Patch tokens of an image-text model lie in the space of the texts, but its last attention mixes them into one
    summary. The presets rewire that block and what surrounds it; `value` lets every token keep its own value
    (MaskCLIP).

    Args:
        model: an `ImageTextModel` with a transformer image tower; with a convolutional one the preset `dense` works.
        preset: a name of `PRESETS`, or `Parts`; the other arguments replace single parts of it. None for `photograph`
            with a model that has `concepts`, such as `everyday`, and `value` with others.
        size: shorter side in pixels at which the model sees the image, in the preset's own resolution.
        background: words for what is none of the labels; together they are one class, the first, named `background`.
        templates: around every label, as in `text_bank`.
        last_block, fusion, views, resolution, mix, text, rule, refine, relabel: the parts (see `Parts`); None for the
            preset's. `refine` and `relabel` take one callable or several.

    Raises:
        UsageError: an unknown preset, or `size` beside `resolution`.
        NotSupported: the model's image tower cannot be opened, or has no attention, which the preset needs.

    Paper of the value path: Zhou et al., Extract Free Dense Labels from CLIP (ECCV 2022).
    """

    def __init__(
        self,
        model: Any,
        preset: str | Parts | None = None,
        *,
        size: int | None = None,
        background: Sequence[str] = (),
        templates: str | Sequence[str] | None = None,
        last_block: Reader | None = None,
        fusion: Fusion | None = None,
        views: Views | None = None,
        resolution: Resolution | None = None,
        mix: Mix | None = None,
        text: TextSide | None = None,
        rule: ClassRule | None = None,
        refine: Refine | Sequence[Refine] | None = None,
        relabel: Relabel | Sequence[Relabel] | None = None,
    ) -> None:
        refuse_bare_module(model, "Segmenter")
        if size is not None and resolution is not None:
            raise UsageError("size is short for the preset's resolution at that size: give one of them")
        if isinstance(background, str):
            raise UsageError(f"background must be a list of words, not the text {background!r}")
        if preset is None:
            preset = "value" if getattr(model, "concepts", None) is None else "photograph"
        parts = parts_of(
            preset, last_block=last_block, fusion=fusion, views=views, resolution=resolution, mix=mix, text=text,
            rule=rule, refine=refine, relabel=relabel,
        )  # fmt: skip
        if size is not None:
            parts = replace(parts, resolution=replace(parts.resolution, size=size))  # type: ignore[type-var]
        changes: dict[str, Any] = {"background": tuple(background)} if background else {}
        if templates is not None:
            changes["templates"] = templates if isinstance(templates, str) else tuple(templates)
        self.model = model
        self.preset = preset if isinstance(preset, str) else "parts of its own"
        self.parts = replace(parts, text=parts.text.with_(**changes)) if changes else parts
        checked: list[Any] = [parts.fusion, parts.last_block, *parts.refine, *parts.relabel]
        for part in checked:
            if hasattr(part, "check_model"):
                part.check_model(model)
        self.tower = dense_tower(model)
        if not self.tower.depth and self.parts.needs_attention:
            raise NotSupported(
                f"{getattr(model, 'name', 'this model')} has a convolutional image tower "
                f"({type(self.tower.module).__name__}) without attention, which "
                f"{preset if isinstance(preset, str) else 'this preset'} needs; the preset dense takes its feature map "
                "as it is: --preset dense"
            )
        self._bound: tuple[Any, BoundText] | None = None

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={getattr(self.parts, name)}" for name in PARTS if getattr(self.parts, name))
        return f"Segmenter({getattr(self.model, 'name', self.model)!r}, {self.preset!r}, {parts})"

    def __call__(self, image: Any, labels: Labels) -> Segmentation:
        """Segment one image.

        Args:
            image: anything `data.open_image` takes, or a float tensor (3, H, W) or (1, 3, H, W) in [0, 1].
            labels: class names, or class name -> its words (a pixel takes the best of them).

        Raises:
            UsageError: no label, an empty or doubled one, one that is also the background, or several images.
            DataError: the image cannot be read.
        """
        return segment_all([self], image, labels)[0]

    def at(self, size: int) -> Segmenter:
        """The same at another shorter side, in pixels."""
        changed = replace(self.parts.resolution, size=size)  # type: ignore[type-var]
        changed_segmenter = Segmenter(self.model, replace(self.parts, resolution=changed))
        changed_segmenter.preset = self.preset
        return changed_segmenter

    def bind(self, labels: Labels) -> BoundText:
        """The labels as vectors; kept until other labels are asked for, so that a folder encodes them once."""
        key = repr(labels if isinstance(labels, (str, Mapping)) else list(labels))
        if self._bound is None or self._bound[0] != key:
            self._bound = (key, self.parts.text.bind(self.model, labels))
        return self._bound[1]

    def scores(self, context: Context, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Scores of words for one batch of windows."""

        def score(seen: Context) -> Tensor:
            return self.parts.fusion(seen, self.parts.last_block, text)

        def features(seen: Context) -> Tensor:
            return F.normalize(head(seen.tower, self.parts.last_block(seen)).float(), dim=1)

        return score(context) if self.parts.views is None else self.parts.views(context, score, features)


def segment_all(segmenters: Sequence[Segmenter], image: Any, labels: Labels) -> list[Segmentation]:
    """Several segmenters of one model on one image; those that see the same windows share the tower's passes.

    Args:
        segmenters: of one model.
        image, labels: as in `Segmenter.__call__`.

    Raises:
        UsageError: no segmenter, or segmenters of different models; see `Segmenter.__call__`.
    """
    segmentations = dict(iter_segmentations(segmenters, image, labels))
    return [segmentations[index] for index in range(len(segmenters))]


def iter_segmentations(
    segmenters: Sequence[Segmenter], image: Any, labels: Labels
) -> Iterator[tuple[int, Segmentation]]:
    """As `segment_all`, each segmentation as soon as it is there: (place among the segmenters, segmentation).

    Until the last one is taken, or the iterator is closed, the model is in evaluation mode.

    Args:
        segmenters, image, labels: as in `segment_all`.

    Raises:
        UsageError, DataError: as `segment_all`, when the first one is asked for.
    """
    if not segmenters:
        raise UsageError("segmenters is empty")
    model = segmenters[0].model
    if any(each.model is not model for each in segmenters):
        raise UsageError("segmenters of different models share nothing: call them one by one")
    picture, pixels = _opened(image)
    # Blocks and no decorator: whoever takes a segmentation finds gradients as they were.
    with torch.no_grad():
        texts = [each.bind(labels) for each in segmenters]
    training, notes = model.training, {}  # type: ignore[var-annotated]
    native, size = min(_pair(model.image_size)), (pixels.shape[-2], pixels.shape[-1])
    pixels = pixels.to(model.device)
    model.eval()
    try:
        layouts = [s.parts.resolution.layout(size, patch=s.tower.patch, native=native) for s in segmenters]
        for layout in dict.fromkeys(layouts):
            mine = [i for i, own in enumerate(layouts) if own == layout]
            with torch.no_grad():
                frame = Frame(model, pixels, resized(pixels, layout.size), notes)
                raw = run_windows(frame, layout, [segmenters[i] for i in mine], [texts[i] for i in mine])
            for index, scores in zip(mine, raw, strict=True):
                with torch.no_grad():
                    segmentation = _finish(segmenters[index].parts, scores, texts[index], frame, picture)
                yield index, segmentation
    finally:
        model.train(training)


@torch.no_grad()
def patch_scores(segmenter: Segmenter, image: Any, text: BoundText) -> Float[Tensor, "Q h w"]:
    """Scores of words, one cell a patch of the tower; before rules and refinements.

    Args:
        segmenter: with a resolution of one window.
        image: as in `Segmenter.__call__`.
        text: words.

    Raises:
        UsageError: several windows.
    """
    model, parts = segmenter.model, segmenter.parts
    _, pixels = _opened(image)
    size, native = (pixels.shape[-2], pixels.shape[-1]), min(_pair(model.image_size))
    layout = parts.resolution.layout(size, patch=segmenter.tower.patch, native=native)
    if len(layout.boxes) != 1:
        raise UsageError(f"scores of patches are of one window, {parts.resolution} makes {len(layout.boxes)}")
    training = model.training
    model.eval()
    try:
        pixels = pixels.to(model.device)
        frame = Frame(model, pixels, resized(pixels, layout.size))
        frame.context = open_windows(frame, frame.pixels, [(0, 0)], records(parts))
        return segmenter.scores(frame.context, text)[0]
    finally:
        model.train(training)


def run_windows(
    frame: Frame, layout: Layout, segmenters: Sequence[Segmenter], texts: Sequence[BoundText]
) -> list[Float[Tensor, "Q h w"]]:
    """Scores of words in pixels of the resized image, for every segmenter, from one pass over the windows."""
    record = records(*(s.parts for s in segmenters))
    spliced = [Splice(layout) for _ in segmenters]
    boxes = layout.boxes
    passes = max(getattr(s.parts.views, "passes", 1) for s in segmenters)
    at_once = _windows_at_once(segmenters[0].tower, layout.window, record, passes)
    for first in range(0, len(boxes), at_once):
        some = boxes[first : first + at_once]
        cut = torch.cat([frame.pixels[..., y0:y1, x0:x1] for x0, y0, x1, y1 in some])
        # Not run yet: parts that look at the picture by other means need no pass of the tower.
        places = tuple((y0, x0) for x0, y0, _, _ in some)
        frame.context = Context(dense_tower(frame.model), cut, frame, places, record)
        for segmenter, text, splice in zip(segmenters, texts, spliced, strict=True):
            if segmenter.parts.resolution.merge == "tokens":
                splice.add(aligned(segmenter.parts.last_block(frame.context), frame.context.grid), some)
            else:
                splice.add(enlarged(segmenter.scores(frame.context, text), layout.window), some)
    out = []
    for segmenter, text, splice in zip(segmenters, texts, spliced, strict=True):
        whole = splice.result()
        if segmenter.parts.resolution.merge == "tokens":
            mixed = whole if segmenter.parts.mix is None else segmenter.parts.mix(whole, frame)
            whole = enlarged(text.cosines(head(segmenter.tower, mixed)), layout.size)
        out.append(whole[0])
    return out


def aligned(maps: Float[Tensor, "B D h w"], grid: tuple[int, int]) -> Float[Tensor, "B D i j"]:
    """Windows' tokens on a grid of which each of the tower's patches is a whole number of cells, the nearest one.

    Windows lie on the tower's patches, and maps of another model need not.
    """
    ratio = max(1, round(maps.shape[-2] / grid[0]))
    return resample(maps, (ratio * grid[0], ratio * grid[1]))


def _windows_at_once(tower: Any, window: tuple[int, int], record: Record, passes: int = 1, most: int = 16) -> int:
    """Fewer where much is kept, of every view: attention maps above all, which grow with the square of the tokens."""
    length = tower.prefix + (window[0] // tower.patch) * (window[1] // tower.patch)
    of_blocks = [(name, tower.depth if layer is None else 1) for name, layer in record.wanted if name != SUM]
    maps = sum(count for name, count in of_blocks if name == "attn") + 2 * ((SUM, None) in record.wanted)
    streams = sum(count for name, count in of_blocks if name != "attn")
    bytes_each = 4 * passes * length * (maps * tower.heads * length + streams * tower.width)
    return max(1, min(most, int(RECORDED_BYTES // bytes_each))) if bytes_each else most


def _finish(parts: Parts, scores: Tensor, text: BoundText, frame: Frame, picture: Any) -> Segmentation:
    frame = replace(frame, background=text.background)
    words = [refine for refine in parts.refine if getattr(refine, "before_rule", False)]
    for refine in words:
        scores = refine(frame.image, scores, frame)
    logits = parts.rule(scores, text)
    for refine in (each for each in parts.refine if each not in words):
        logits = refine(frame.image, logits, frame)
    below = 0 if parts.rule.below == "background" and text.background else -1
    size = (picture.height, picture.width)
    labels_of_pixels = label_map(logits, size, parts.rule.threshold, below=below, absolute=parts.rule.absolute)
    for relabel in parts.relabel:
        labels_of_pixels = relabel(labels_of_pixels, logits, frame)
    return Segmentation(text.classes, labels_of_pixels, logits, picture, background=text.background)


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
