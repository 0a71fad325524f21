"""Can one frame of pixels, shared by all pictures, teach a frozen CLIP a new task?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binderclip.adapt import LinearProbe, VisualPromptTuning, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.picture_sets import PictureSet, picture_set, unit_features

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

SIDE, WIDTH, TRAIN, TEST, EPOCHS, BATCH = 64, 8, 256, 300, 10, 32
KINDS = {"frame": "frame", "fixed patch": "patch", "random patch": "random-patch"}
SETS = ("digits", "Fashion-MNIST")


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for name in SETS:
        data = picture_set(name, bundled(), seed, train=TRAIN, test=TEST, side=SIDE)
        rows += _bounds(name, data, bundled())
        for method, kind in KINDS.items():
            if name == "digits" or method == "frame":
                rows.append(Row("accuracy", method, _score(_tuned(data, seed, bundled(), kind=kind), data), name))
    return rows


def _tuned(data: PictureSet, seed: int, model: Any, **options: Any) -> VisualPromptTuning:
    head = VisualPromptTuning(
        data.bank, model=model, size=SIDE, width=WIDTH, epochs=EPOCHS, batch_size=BATCH, seed=seed, **options
    )
    head.fit(data.images, data.labels)
    return head


def _score(head: Any, data: PictureSet) -> float:
    return float(head.score(data.test_images, data.test_labels))


def _zero_shot(data: PictureSet) -> ZeroShotClassifier:
    return ZeroShotClassifier(data.bank).fit()


def _bounds(name: str, data: PictureSet, model: ImageTextModel) -> list[Row]:
    """What needs no prompt, on the same pictures: the texts alone, and a linear probe."""
    train, test = unit_features(model, data.images), unit_features(model, data.test_images)
    probe = LinearProbe(C=100.0).fit(train, data.labels)
    return [
        Row("accuracy", "zero-shot", float(_zero_shot(data).score(test, data.test_labels)), name),
        Row("accuracy", "linear probe", float(probe.score(test, data.test_labels)), name),
    ]


def draw(table: Table, figure: Figure) -> None:
    """Kinds of prompt between their bounds, both sets."""
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    bars = ["zero-shot", "random patch", "fixed patch", "frame", "linear probe"]
    _bars(left, table, bars, "digits", ["C7", "C1", "C1", "C0", "C2"])
    left.set(title="Digits: kinds of prompt", ylabel="accuracy", ylim=(0, 1))
    _bars(right, table, ["zero-shot", "frame", "linear probe"], "Fashion-MNIST", ["C7", "C0", "C2"])
    right.set(title="Fashion-MNIST", ylim=(0, 1))


def _bars(ax: Any, table: Table, methods: list[str], setting: str, colours: list[str]) -> None:
    for place, (method, colour) in enumerate(zip(methods, colours, strict=True)):
        values = table.values("accuracy", method, setting)
        ax.bar(place, values.mean(), 0.7, yerr=values.std(), color=colour)
        ax.text(place, values.mean() + values.std() + 0.02, f"{values.mean():.2f}", ha="center")
    ax.set_xticks(range(len(methods)), [method.replace(" ", "\n").replace("-", "-\n") for method in methods])


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="5510de3a5399")
