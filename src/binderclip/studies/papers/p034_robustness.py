"""Does a temperature calibrate under shifts too, and does fine-tuning turn a model from shapes to textures?"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import corrupt3d, vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import PredictionTable, RobustnessReport, RobustnessSuite
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.last_blocks import BATCH, Entering, entering, leaving, trained_parameters

CLASSES = ("flag", "clock", "tree", "house", "cat", "dog", "car", "flower")
OTHERS = ("moon", "woman", "apple", "heart", "cloud")
HELD, TRAIN, CONFLICTS, UNKNOWN = 240, 160, 160, 80
STEPS, RATE = 60, 2e-4
ZERO, TUNED = "zero-shot", "fine-tuned"
ECE, NLL, BIAS, DECIDED = "calibration error", "negative log likelihood", "shape bias", "predictions that are either"
BEFORE, AFTER = "as it is", "with a temperature"
SHIFTS = {"fog": ("fog", 3), "out of focus": ("far_focus", 4)}
FACTORS = ("small object", "turned", "cluttered ground")


class HeldOut(NamedTuple):
    """Pictures that are never trained on, up to the trained blocks, and what is known of them."""

    tokens: Entering
    labels: np.ndarray
    attributes: dict[str, tuple[Any, ...]]

    def table(self, clip: Any, key: str) -> PredictionTable:
        """Zero-shot predictions of a model that differs from `small` in its last blocks alone."""
        with torch.no_grad():
            rows = torch.arange(len(self.labels))
            seen = torch.cat([leaving(clip, self.tokens, part) for part in rows.split(BATCH)])
            scores = (clip.scale() * seen @ texts().T).numpy()
        keys = tuple(f"{key} {row}" for row in rows.tolist())
        return PredictionTable(keys, self.labels, scores, CLASSES, self.attributes)


@cache
@torch.no_grad()
def texts() -> Float[Tensor, "C E"]:
    """One sentence a class."""
    return F.normalize(bundled().encode_text([f"a picture of a {name}" for name in CLASSES]), dim=1)


@cache
def sets() -> dict[str, HeldOut]:
    """All pictures, through the frozen blocks once."""
    words = vocabulary(list(CLASSES), split="val+test+shift")
    factors: dict[str, Any] = {
        "size": {"medium": 0.5, "small": 0.25, "large": 0.25}, "rotation": {0: 0.7, 90: 0.15, 180: 0.15},
        "background": {"plain": 0.4, "gradient": 0.3, "photo": 0.3},
    }  # fmt: skip
    made = scenes(34, HELD, 128, vocabulary=words, objects=1, factors=factors)
    labels = np.array([CLASSES.index(names[0]) for names in made.names])
    column = {name: np.asarray(made.attributes[name]).reshape(HELD, -1)[:, 0].tolist() for name in factors}
    known = {
        "small object": tuple(value == "small" for value in column["size"]),
        "turned": tuple(float(value) != 0 for value in column["rotation"]),
        "cluttered ground": tuple(value == "photo" for value in column["background"]),
    }
    found = {"test": HeldOut(entering(bundled(), made.images), labels, known)}
    for name, (kind, level) in SHIFTS.items():
        found[name] = HeldOut(entering(bundled(), corrupt3d(made.images, made.depth, kind, level)), labels, {})
    far = scenes(35, UNKNOWN, 128, vocabulary=vocabulary(list(OTHERS), split="val+test+shift"), objects=1)
    found["unknown"] = HeldOut(entering(bundled(), far.images), np.full(UNKNOWN, -1), {})
    images, cues = conflicting()
    found["cues"] = HeldOut(entering(bundled(), images), np.full(len(images), -1), cues)
    learned = scenes(36, TRAIN, 128, vocabulary=vocabulary(list(CLASSES), split="train"), objects=1)
    own = np.array([CLASSES.index(names[0]) for names in learned.names])
    return found | {"train": HeldOut(entering(bundled(), learned.images), own, {})}


@cache
def conflicting() -> tuple[Float[Tensor, "N 3 S S"], dict[str, tuple[str, ...]]]:
    """Silhouettes of one class filled with tiles of drawings of another one."""
    rng, words = np.random.default_rng(34), vocabulary(list(CLASSES), split="train")
    images, shapes, fills = [], [], []
    for _ in range(CONFLICTS):
        one, other = rng.permutation(len(CLASSES))[:2].tolist()
        outer, inner = (words.sprites[rng.choice(words.members(owner))] for owner in (one, other))
        alpha = F.interpolate(torch.from_numpy(outer[..., 3] / 255.0)[None, None].float(), 112, mode="bilinear")[0]
        paint = torch.from_numpy(inner / 255.0).permute(2, 0, 1).float()
        tile = paint[:3] * paint[3:] + 0.75 * (1 - paint[3:])
        tile = F.interpolate(tile[None], 28, mode="area")[0].repeat(1, 4, 4)  # (3, 112, 112)
        whole = torch.ones(3, 128, 128)
        whole[:, 8:120, 8:120] = alpha * tile + 1 - alpha
        images.append(whole)
        shapes.append(CLASSES[one])
        fills.append(CLASSES[other])
    return torch.stack(images), {"shape": tuple(shapes), "texture": tuple(fills)}


def tuned(seed: int) -> Any:
    """A copy of `small` whose last two image blocks learned the classes from scenes."""
    clip, held, order = copy.deepcopy(bundled()), sets()["train"], torch.Generator().manual_seed(seed)
    labels, scale = torch.from_numpy(held.labels), clip.scale().detach()

    def step(rows: Tensor) -> Tensor:
        return F.cross_entropy(scale * leaving(clip, held.tokens, rows) @ texts().T, labels[rows])

    batches = [torch.randint(TRAIN, (BATCH,), generator=order) for _ in range(STEPS)]
    fit(step, trained_parameters(clip), batches, steps=STEPS, lr=RATE, module=clip, warmup=10)
    return clip.eval()


def reported(clip: Any, seed: int) -> RobustnessReport:
    """The suite on one half of the pictures, the temperature from the other."""
    tables = {name: held.table(clip, name) for name, held in sets().items() if name != "train"}
    order = np.random.default_rng(seed).permutation(HELD)
    validation, test = order[: HELD // 2], order[HELD // 2 :]
    suite = RobustnessSuite(
        tables["test"].take(validation), tables["test"].take(test),
        shifted={name: tables[name].take(test) for name in SHIFTS}, unknown={"other classes": tables["unknown"]},
        conflicting=tables["cues"], factors=FACTORS,
    )  # fmt: skip
    return suite.report(draws=200)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for method, clip in ((ZERO, bundled()), (TUNED, tuned(seed))):
        found = reported(clip, seed)
        assert found.shape is not None
        for name in found.accuracy:
            rows.append(Row("accuracy", method, found.accuracy[name], name))
            for metric, pair in ((ECE, found.ece[name]), (NLL, found.nll[name])):
                rows += [
                    Row(metric, f"{method}, {BEFORE}", pair[0], name),
                    Row(metric, f"{method}, {AFTER}", pair[1], name),
                ]
        rows += [Row("error ratio", method, one.ratio, name) for name, one in found.factors.items()]
        rows.append(Row(BIAS, method, found.shape.bias))
        rows.append(Row(DECIDED, method, found.shape.decided))
        rows += [Row(f"AUROC, {kind}", method, one.auroc) for kind, one in found.unknown["other classes"].items()]
        rows.append(Row("temperature", method, found.temperature))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """A picture with conflicting cues; shape bias; calibration before and after; errors by factor."""
    shown, first, second, third = figure.subplots(1, 4, width_ratios=(0.8, 0.8, 1.4, 1.2))
    images, cues = conflicting()
    shown.imshow(images[0].permute(1, 2, 0).numpy())
    bare(shown, frame=False)
    shown.set_title(f"{cues['shape'][0]} of {cues['texture'][0]}s", fontsize=9)
    for number, method in enumerate((ZERO, TUNED)):
        each = table.values(BIAS, method)
        first.plot(np.full(len(each), number), each, "o", alpha=0.5, color=f"C{number}")
        first.plot(number + 0.2, each.mean(), "s", color=f"C{number}")
    first.set_xticks(range(2), (ZERO, TUNED), fontsize=8)
    first.set(xlim=(-0.4, 1.5), ylim=(0, 1))
    first.set_title(BIAS, fontsize=9)
    names = ("test", *SHIFTS)
    for number, method in enumerate(f"{one}, {how}" for one in (ZERO, TUNED) for how in (BEFORE, AFTER)):
        place = np.arange(len(names)) + 0.2 * (number - 1.5)
        second.bar(place, [table.mean(ECE, method, name) for name in names], 0.18, label=method, color=f"C{number}")
    second.set_xticks(range(len(names)), names, fontsize=8)
    second.set_title(ECE, fontsize=9)
    second.set_ylim(0, 1.45 * second.get_ylim()[1])
    second.legend(fontsize=6, ncols=2, loc="upper left")
    for number, method in enumerate((ZERO, TUNED)):
        place = np.arange(len(FACTORS)) + 0.38 * number - 0.19
        values = [table.mean("error ratio", method, name) for name in FACTORS]
        third.bar(place, values, 0.36, color=f"C{number}", label=method)
    third.axhline(1, color="grey", linestyle=":")
    third.set_xticks(range(len(FACTORS)), FACTORS, fontsize=7, rotation=15)
    third.set_title("error ratio", fontsize=9)
    third.set_ylim(0, 1.25 * third.get_ylim()[1])
    third.legend(fontsize=7, loc="upper left")


def null(seed: int) -> list[Row]:
    """Random numbers in the place of all that is compared."""
    return [*random_rows(STUDY.criteria, seed), Row(DECIDED, ZERO, 1.0), Row("accuracy", ZERO, 1.0, "test")]


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), null=null, registered="6aeb76fa4e48")
