"""Is a prompt around the picture, trained by normalised gradients, better than one on top of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from binderclip.adapt import LinearProbe, VisualPromptTuning, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.data.picture_sets import PictureSet, picture_set, unit_features

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

SIDE, INNER, TRAIN, TEST, EPOCHS, BATCH = 64, 48, 256, 300, 38, 32
ON_TOP, NORMALISED = "on top (VP)", "around, normalised"
VARIANTS: dict[str, dict[str, Any]] = {ON_TOP: {"recipe": "vp"}, NORMALISED: {"recipe": "evp", "flips": False}}
SETS = {"digits": (ON_TOP, NORMALISED)}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    from binderclip.models import load

    model = load("small")
    rows = []
    for name, variants in SETS.items():
        data = picture_set(name, model, seed, train=TRAIN, test=TEST, side=SIDE)
        rows += _bounds(name, data, model)
        for variant in variants:
            head = VisualPromptTuning(
                data.bank, model=model, size=SIDE, width=(SIDE - INNER) // 2, epochs=EPOCHS, batch_size=BATCH,
                seed=seed, **VARIANTS[variant],
            ).fit(data.images, data.labels)  # fmt: skip
            rows.append(Row("accuracy", variant, float(head.score(data.test_images, data.test_labels)), name))
    return rows


def _bounds(name: str, data: PictureSet, model: ImageTextModel) -> list[Row]:
    """Zero-shot on the whole and on the shrunk picture, and a linear probe, which has the whole one."""
    prior = ZeroShotClassifier(data.bank).fit()
    train, test = unit_features(model, data.images), unit_features(model, data.test_images)
    probe = LinearProbe(C=100.0).fit(train, data.labels)
    small = F.interpolate(data.test_images, size=(INNER, INNER), mode="bicubic", antialias=True).clamp(0, 1)
    shrunk = unit_features(model, F.pad(small, [(SIDE - INNER) // 2] * 4))
    return [
        Row("accuracy", "zero-shot, whole", float(prior.score(test, data.test_labels)), name),
        Row("accuracy", "zero-shot, shrunk", float(prior.score(shrunk, data.test_labels)), name),
        Row("accuracy", "linear probe", float(probe.score(test, data.test_labels)), name),
    ]


def draw(table: Table, figure: Figure) -> None:
    """Bounds in grey and green, variants in colour."""
    for name, variants in SETS.items():
        ax = figure.subplots()
        methods = ["zero-shot, whole", "zero-shot, shrunk", *variants, "linear probe"]
        colours = ["C7", "C7", "C1", *["C0"] * (len(variants) - 1), "C2"]
        for place, (method, colour) in enumerate(zip(methods, colours, strict=True)):
            values = table.values("accuracy", method, name)
            ax.barh(place, values.mean(), 0.7, xerr=values.std(), color=colour)
            ax.text(values.mean() + values.std() + 0.01, place, f"{values.mean():.2f}", va="center")
        ax.set_yticks(range(len(methods)), methods)
        ax.invert_yaxis()
        ax.set(title=name, xlim=(0, 1), xlabel="accuracy")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="e3e509d57135")
