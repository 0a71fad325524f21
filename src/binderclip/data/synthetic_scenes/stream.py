"""Composite scenes: pack pictures pasted on backgrounds, with exact masks, boxes, depth, captions and attributes.

A scene's truth is known because we made it: which pixel belongs to which object, what is hidden behind what, where a
defect or a tube runs, and what differs between the two pictures of a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch.utils.data import IterableDataset, get_worker_info

from binderclip.data.synthetic_scenes.batch import RecordedScene, Scenes, assemble
from binderclip.data.synthetic_scenes.compose import compose
from binderclip.data.synthetic_scenes.layout import SceneLayout, Values, check_layout, place_objects
from binderclip.data.synthetic_scenes.pairs import Difference, check_pairs, twin
from binderclip.data.synthetic_scenes.vocabulary import Vocabulary, vocabulary
from binderclip.errors import UsageError
from binderclip.numeric import check_number

_vocabulary = vocabulary


def scenes(
    seed: int,
    n: int,
    size: int = 256,
    *,
    vocabulary: str | Sequence[str] | Mapping[str, Sequence[str]] | Vocabulary = "scenes15",
    objects: tuple[int, int] | int = (1, 4),
    area: tuple[float, float] | None = None,
    occlusion: tuple[float, float] | float = 0.3,
    background: object = "plain",
    slots: str | Sequence[tuple[float, float, float, float]] | None = None,
    factors: Mapping[str, Values] | None = None,
    camouflage: float = 0.0,
    tubes: tuple[int, int] | int = 0,
    defects: tuple[int, int] | int = 0,
    pairs: bool | str = False,
    first: int = 0,
) -> Scenes:
    """Make `n` scenes; scene i depends on (seed, first + i) and the options only, not on `n` or the worker.

    Args:
        seed: any integer >= 0; different seeds share nothing.
        n: number of scenes.
        size: side in pixels, 16..2048. The layout is drawn in fractions of the side, so it is (nearly) the same at
            every size.
        vocabulary: what occurs. A `Vocabulary` (which fixes the split: `vocabulary("scenes15", split="val")`), or what
            the function `vocabulary` takes, read from the training split. Classes of one scene are distinct while they
            last: a vocabulary of one class gives several instances of it.
        objects: (least, most) objects a scene, uniform; an integer for exactly so many. 0 is allowed.
        area: (least, most) fraction of the scene that an object's whole mask covers; sides are uniform between the
            limits. A thin object stops growing when its box is three times
            as large, and none leaves the scene. Default (0.04, 0.2); with `slots`, as large
            as fits the slot.
        occlusion: the largest fraction of an object's mask that may be hidden, or (least, most): with least > 0 every
            object but the first hides at least that fraction of one behind it ("touching" is (0.01, 0.2)). The limits
            hold for every object; defects come on top. Scenes whose factors fix places are redrawn until they hold.
        background: "plain" (a pale colour), "gradient", "noise" (cloudy), "texture" (stripes, checks, dots, weave,
            bricks), "photo" (crops of eight bundled photographs), a colour name, an (r, g, b) of integers 0..255 or
            floats 0..1, your pictures ((M, 3, h, w) float or (M, h, w, 3) uint8; random crops), or a list of these to
            draw from.
        slots: fixed places, one object each, centred: "left-right", "top-bottom", "row" (3), "grid" (2 x 2), "grid3"
            (3 x 3), or boxes (x0, y0, x1, y1) in [0, 1]. Objects are listed in slot order; captions say the relation.
        factors: controlled attributes, name -> values. Values are a sequence (uniform), a mapping value -> weight, or a
            callable (class name, numpy Generator) -> value, for attributes that go with the class. Per object: colour
            (names of `COLOURS`, None for its own), size ("small", "medium", "large" or a fraction of the scene),
            position (names of `POSITIONS` or (x, y) of the centre in [0, 1]), style (of the packs), rotation (degrees,
            counter-clockwise), flip (bool). Per scene: background (a callable gets the first object's class). The
            drawn values stand in `Scenes.attributes`.
        camouflage: in [0, 1]; mixes so much of the nearby background into each object. 1 leaves an outline at most.
        tubes: number (or (least, most)) of smooth tubular structures drawn on the background, under the objects.
        defects: number (or (least, most)) of local defects (scratch, spot, hole, missing part) on the objects, or on
            the background where there is no object. Holes and missing parts leave `visible` and `semantic`.
        pairs: True or a kind: `Scenes.pair` is a second picture of each scene. With defects: the sound twin. Otherwise
            one object is removed, replaced, recoloured or moved ("remove", "replace", "colour", "move"; True draws).
        first: index of the first scene.

    Returns:
        `Scenes`, on the CPU.

    Raises:
        UsageError: an argument is wrong, or the objects do not fit under the limits.
        MissingDependency: background "photo" without scikit-image.
    """
    if n < 0 or first < 0 or seed < 0:
        raise UsageError(f"seed, n and first must be at least 0, got {seed}, {n}, {first}")
    source = vocabulary if isinstance(vocabulary, Vocabulary) else _vocabulary(vocabulary)
    layout = check_layout(size, source, objects, area, occlusion, background, slots, factors or {})
    extras = _Extras(camouflage, _range("tubes", tubes), _range("defects", defects), slots)
    kinds = check_pairs(pairs, extras.defects, layout.objects[0])
    records = [_record(layout, extras, kinds, seed, index) for index in range(first, first + n)]
    ids = [f"{seed}/{index}" for index in range(first, first + n)]
    batch = assemble([one for one, _ in records], ids, layout, slots, extras.tubes[1])
    if kinds:
        twins = [other for _, other in records if other is not None]
        batch.pair = assemble(twins, [f"{one}/twin" for one in ids], layout, slots, extras.tubes[1])
        batch.differences = [other.difference for other in twins if other.difference is not None]
        batch.changed = (batch.images - batch.pair.images).abs().amax(1) > 1 / 255
    return batch


class _Extras:
    def __init__(self, camouflage: float, tubes: tuple[int, int], defects: tuple[int, int], slots: object) -> None:
        check_number("camouflage", camouflage, least=0, most=1)
        self.camouflage, self.tubes, self.defects, self.slots = float(camouflage), tubes, defects, slots


def _range(name: str, value: tuple[int, int] | int) -> tuple[int, int]:
    low, high = (value, value) if isinstance(value, int) else value
    if not 0 <= low <= high:
        raise UsageError(f"{name} {value!r} is neither a number >= 0 nor (least, most)")
    return int(low), int(high)


def _record(
    layout: SceneLayout, extras: _Extras, kinds: Sequence[str], seed: int, index: int
) -> tuple[RecordedScene, RecordedScene | None]:
    placed = place_objects(layout, seed, index)
    details = {"camouflage": extras.camouflage, "tubes": extras.tubes}
    painted = compose(layout, placed, seed, index, defects=extras.defects, **details)  # type: ignore[arg-type]
    one = RecordedScene(placed, painted)
    if not kinds:
        return one, None
    if kinds == ("defect",):
        defect_kinds = tuple(defect.kind for defect in painted.defects)
        other, difference = list(placed), Difference("defect", -1, defect_kinds, ())
    else:
        other, difference = twin(layout, placed, kinds, seed, index)
    sound = compose(layout, other, seed, index, defects=(0, 0) if kinds == ("defect",) else extras.defects, **details)  # type: ignore[arg-type]
    return one, RecordedScene(other, sound, difference)


class SceneStream(IterableDataset):
    """Endless (or `batches` long) stream of scene batches for training.

    Batch b holds the scenes b * batch_size .. (b + 1) * batch_size - 1 of `scenes(seed, ...)`. Inside a DataLoader with
    `batch_size=None`, worker w of W yields the batches w, w + W, ...: the loader's order is the same for any number of
    workers.

    Args:
        seed: as in `scenes`.
        batch_size: scenes a batch.
        size: side in pixels.
        batches: number of batches; None never ends.
        start: first batch, to resume.
        options: the other arguments of `scenes`.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        size: int = 256,
        *,
        batches: int | None = None,
        start: int = 0,
        **options: object,
    ) -> None:
        super().__init__()
        check_number("batch_size", batch_size, least=1)
        given = options.get("vocabulary", "scenes15")
        options["vocabulary"] = given if isinstance(given, Vocabulary) else vocabulary(given)  # type: ignore[arg-type]
        self.seed, self.batch_size, self.size, self.batches, self.start = seed, batch_size, size, batches, start
        self.options = options
        scenes(seed, 0, size, **options)  # type: ignore[arg-type]  # wrong options are reported here, not in a worker

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that `Scenes.semantic` indexes."""
        source = self.options["vocabulary"]
        assert isinstance(source, Vocabulary)
        return source.classes

    def __iter__(self) -> Iterator[Scenes]:
        worker = get_worker_info()
        step, batch = (worker.num_workers, self.start + worker.id) if worker else (1, self.start)
        while self.batches is None or batch < self.batches:
            first = batch * self.batch_size
            yield scenes(self.seed, self.batch_size, self.size, first=first, **self.options)  # type: ignore[arg-type]
            batch += step
