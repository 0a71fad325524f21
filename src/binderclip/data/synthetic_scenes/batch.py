"""A batch of scenes and how it is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from binderclip.data.sets.sample import Sample
from binderclip.data.synthetic_scenes.captions import caption, described
from binderclip.data.synthetic_scenes.compose import Painted
from binderclip.data.synthetic_scenes.layout import Placed, SceneLayout
from binderclip.data.synthetic_scenes.pairs import Difference
from binderclip.data.synthetic_scenes.paste import boxes_of


@dataclass
class Scenes:
    """N scenes of side S with up to K objects each, listed from back to front (in slot order with slots).

    Args:
        images: float32 in [0, 1].
        semantic: int64 class of the front-most object at each pixel, indexing `classes`; 0 is the background.
        visible: the pixels of each object that one sees; absent objects are empty.
        amodal: the pixels of each object as if nothing were in front of it.
        boxes: float32 xyxy, half-open, of the visible pixels; zeros where there are none.
        labels: int64 ids into `classes`, -1 for absent objects.
        order: int64 depth rank, 0 = furthest back, -1 for absent objects.
        ids: "seed/index" of each scene (and "/twin" in a pair's second picture).
        classes: ("background", *names).
        names: class names of the objects, N lists.
        phrases: what each object is in words: the pack's caption, or the class with its controlled attributes.
        captions: N lines.
        keys: pack keys of the cut-outs.
        attributes: arrays of (N, K) (per object; NaN or None where absent) or (N,) (per scene): area and occlusion
            (fractions), slot (-1 without slots), every drawn factor, and number of objects.
        tubes: masks of the visible parts of tubes, T a scene.
        tube_lines: for each scene, the centre lines as float32 (P, 3): x, y, radius in pixels.
        defects: the pixels of all defects.
        defect_kinds: for each scene, kind and object index (-1: background) of each defect.
        pair: the second picture of each scene, or None.
        differences: what differs in the pair.
        changed: pixels that differ in the pair.
    """

    images: Float[Tensor, "N 3 S S"]
    semantic: Int[Tensor, "N S S"]
    visible: Bool[Tensor, "N K S S"]
    amodal: Bool[Tensor, "N K S S"]
    boxes: Float[Tensor, "N K 4"]
    labels: Int[Tensor, "N K"]
    order: Int[Tensor, "N K"]
    ids: list[str]
    classes: tuple[str, ...]
    names: list[list[str]]
    phrases: list[list[str]]
    captions: list[str]
    keys: list[list[str]]
    attributes: dict[str, np.ndarray]
    tubes: Bool[Tensor, "N T S S"]
    tube_lines: list[list[Float[Tensor, "_ 3"]]]
    defects: Bool[Tensor, "N S S"]
    defect_kinds: list[list[tuple[str, int]]]
    pair: Scenes | None = None
    differences: list[Difference] = field(default_factory=list)
    changed: Bool[Tensor, "N S S"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, k, side = self.visible.shape[:3]
        return f"Scenes({n} scenes, up to {k} objects, {side} px, {len(self.classes) - 1} classes)"

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.images.shape[-1])

    @property
    def present(self) -> Bool[Tensor, "N K"]:
        """Which of the K objects there are."""
        return self.labels >= 0

    @property
    def instances(self) -> Int[Tensor, "N S S"]:
        """Index of the object one sees at each pixel, -1 for the background."""
        number = torch.arange(1, self.visible.shape[1] + 1, device=self.visible.device)[:, None, None]
        return (self.visible * number).sum(1) - 1

    @property
    def depth(self) -> Float[Tensor, "N 1 S S"]:
        """How far away each pixel is: 1 for the background, objects at equal steps in front of it, none at 0."""
        count = self.present.sum(dim=1, keepdim=True) + 1  # (N, 1)
        near = torch.where(self.present, 1 - (self.order + 1) / count, torch.ones(())).to(self.images)  # (N, K)
        seen = torch.where(self.visible, near[:, :, None, None], torch.ones((), dtype=near.dtype))
        return seen.amin(dim=1, keepdim=True) if seen.shape[1] else torch.ones_like(self.images[:, :1])

    @property
    def amodal_boxes(self) -> Float[Tensor, "N K 4"]:
        """Boxes of the whole objects, hidden parts included."""
        return boxes_of(self.amodal)

    def select(self, index: int | slice | Sequence[int] | Tensor) -> Scenes:
        """The scenes at `index`, as a batch."""
        rows = torch.arange(len(self))[index if not isinstance(index, int) else [index]].tolist()
        chosen: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                chosen[entry.name] = value[rows]
            elif isinstance(value, list) and value:
                chosen[entry.name] = [value[row] for row in rows]
            elif isinstance(value, dict):
                chosen[entry.name] = {name: column[rows] for name, column in value.items()}
            elif isinstance(value, Scenes):
                chosen[entry.name] = value.select(rows)
        return replace(self, **chosen)  # type: ignore[arg-type]

    __getitem__ = select

    def samples(self) -> list[Sample]:
        """The scenes as samples of an image-text set: boxes and visible masks of the objects, labels in attributes."""
        result = []
        for i, caption_ in enumerate(self.captions):
            there = self.present[i]
            pixels = (self.images[i] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            result.append(
                Sample(
                    image=Image.fromarray(pixels),
                    caption=caption_,
                    key=f"scenes/{self.ids[i]}",
                    boxes=self.boxes[i][there].cpu().numpy(),
                    masks=self.visible[i][there].cpu().numpy(),
                    attributes={"names": self.names[i], "labels": self.labels[i][there].tolist()},
                    source="scenes",
                )
            )
        return result

    def to(self, device: str | torch.device) -> Scenes:
        """The same batch with its tensors on `device`."""
        moved: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, (Tensor, Scenes)):
                moved[entry.name] = value.to(device)
        return replace(self, **moved)  # type: ignore[arg-type]


@dataclass
class RecordedScene:
    """A painted scene with its objects."""

    placed: Sequence[Placed]
    painted: Painted
    difference: Difference | None = None


def assemble(
    records: Sequence[RecordedScene], ids: list[str], layout: SceneLayout, slots: object, tubes: int
) -> Scenes:
    """Stack painted scenes into one batch, padded to the largest number of objects the options allow."""
    n, k, side = len(records), layout.objects[1], layout.side
    images = np.empty((n, 3, side, side), dtype=np.float32)
    semantic = np.zeros((n, side, side), dtype=np.int64)
    visible = np.zeros((n, k, side, side), dtype=bool)
    amodal = np.zeros((n, k, side, side), dtype=bool)
    defects = np.zeros((n, side, side), dtype=bool)
    lines = np.zeros((n, tubes, side, side), dtype=bool)
    labels = np.full((n, k), -1, dtype=np.int64)
    order = np.full((n, k), -1, dtype=np.int64)
    for i, record in enumerate(records):
        painted, count = record.painted, len(record.placed)
        images[i] = painted.image.transpose(2, 0, 1)
        semantic[i], defects[i] = painted.semantic, painted.defect_mask
        visible[i, :count], amodal[i, :count] = painted.visible, painted.amodal
        if tubes:
            lines[i] = painted.tube_masks & ~painted.amodal.any(0)
        labels[i, :count] = [one.owner + 1 for one in record.placed]
        order[i, :count] = np.arange(count)
    seen = torch.from_numpy(visible)
    words = [_words(record, layout) for record in records]
    places = [[one.slot for one in record.placed] for record in records]
    return Scenes(
        images=torch.from_numpy(images),
        semantic=torch.from_numpy(semantic),
        visible=seen,
        amodal=torch.from_numpy(amodal),
        boxes=boxes_of(seen),
        labels=torch.from_numpy(labels),
        order=torch.from_numpy(order),
        ids=ids,
        classes=layout.source.classes,
        names=[[layout.source.names[one.owner] for one in record.placed] for record in records],
        phrases=[phrases for _, phrases in words],
        captions=[caption(nouns, slots, place) for (nouns, _), place in zip(words, places, strict=True)],
        keys=[[layout.source.keys[one.row] for one in record.placed] for record in records],
        attributes=_attributes(records, layout, visible, amodal),
        tubes=torch.from_numpy(lines),
        tube_lines=[[torch.from_numpy(one.line) for one in record.painted.tubes] for record in records],
        defects=torch.from_numpy(defects),
        defect_kinds=[[(one.kind, one.target) for one in record.painted.defects] for record in records],
    )


def _words(record: RecordedScene, layout: SceneLayout) -> tuple[list[str], list[str]]:
    """Noun phrases for the caption, and the phrase of each object."""
    damaged = {one.target for one in record.painted.defects}
    nouns, phrases = [], []
    for k, one in enumerate(record.placed):
        name = layout.source.names[one.owner]
        noun = described(name, one.values, k in damaged)
        nouns.append(noun)
        phrases.append(noun if noun != name else layout.source.captions[one.row])
    return nouns, phrases


def _attributes(
    records: Sequence[RecordedScene], layout: SceneLayout, visible: np.ndarray, amodal: np.ndarray
) -> dict[str, np.ndarray]:
    whole = amodal.sum((2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        hidden = 1 - visible.sum((2, 3)) / whole
    area = np.where(whole > 0, whole / layout.side**2, np.nan)
    slot = np.full(whole.shape, -1, dtype=np.int64)
    for i, record in enumerate(records):
        slot[i, : len(record.placed)] = [one.slot for one in record.placed]
    attributes: dict[str, np.ndarray] = {
        "area": area,
        "occlusion": hidden,
        "slot": slot,
        "objects": np.array([len(record.placed) for record in records], dtype=np.int64),
    }
    for factor in layout.factors:
        if factor == "background":
            column = np.empty(len(records), dtype=object)
            column[:] = [record.painted.background for record in records]
        else:
            column = np.full(whole.shape, None, dtype=object)
            for i, record in enumerate(records):
                for k, one in enumerate(record.placed):
                    column[i, k] = one.values[factor]
        attributes[factor] = column
    return attributes
