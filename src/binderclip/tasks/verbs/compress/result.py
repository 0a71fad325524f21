"""What comes of `compress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from binderclip.display import number_of
from binderclip.models import OnnxTowers
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.compress.bits import FewerBits
from binderclip.tasks.verbs.compress.bits_recovery import INT8
from binderclip.tasks.verbs.compress.figures import REPEATS, ModelFigures
from binderclip.tasks.verbs.compress.request import CompressRequest

METRICS = {"accuracy": "accuracy, held out", "recall": "mean recall at 1, 5 and 10, held out"}
"""What quality is -> its row in the table."""
PLURALS = {"head": "heads", "neuron": "neurons", "neuron set": "neurons", "channel": "channels", "block": "blocks"}
"""Kind of module -> its name in a sentence."""


@dataclass(frozen=True)
class Compression(VerbResult):
    """A model before and after.

    Attributes:
        model, source: names.
        judged, held_out: pictures in each half. metric: "accuracy" or "recall". chance: its value by guessing.
        before, after: figures of the model.
        groups: kind of module -> how many there were, and how many stay.
        threads: of the processor, with which times were taken.
        skipped: (key, reason) of pictures that could not be read.
        open_clip: whether open_clip opens the folder, a sentence.
        bits: what has fewer bits, or None. onnx: what was exported, or None.
    """

    whole: ClassVar[bool] = True

    request: CompressRequest
    model: str
    source: str
    judged: int
    held_out: int
    metric: str
    chance: float
    before: ModelFigures
    after: ModelFigures
    groups: dict[str, tuple[int, int]]
    threads: int
    skipped: list[tuple[str, str]]
    open_clip: str
    bits: FewerBits | None = None
    onnx: OnnxTowers | None = None

    @property
    def title(self) -> str:
        """What goes from which model, and on which data."""
        sides = self.request.sides
        own = f" of the {sides[0]} tower" if len(sides) == 1 else ""
        places = dict.fromkeys(PLURALS, own) | {"channel": " of the image tower" if own else ""}
        kinds = [(self._fraction(kind), places[kind], PLURALS[kind]) for kind in self.groups]
        parts = [
            f"{fraction} of the {_listed([kind for *_, kind in same])}{place}"
            for (fraction, place), same in groupby(kinds, key=lambda entry: entry[:2])
        ]
        taken = f" without {_listed(parts)}, by {self.request.method}" if parts else ""
        bits = "" if self.bits is None else f" in {self.bits.bits} bits{'' if taken else own}"
        return f"{self.model}{taken}{',' if taken and bits else ''}{bits}, on {self.source}"

    def _fraction(self, kind: str) -> str:
        """Of the modules of a kind, how many went."""
        had, has = self.groups[kind]
        return f"{1 - has / had:.0%}"

    @property
    def saved(self) -> Path:
        """Folder of the smaller model."""
        return Path(self.request.out)

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a figure."""
        first, second = self.before, self.after
        rows: list[tuple[Any, ...]] = [
            (f"{kind}s judged together" if kind == "neuron set" else f"{kind}s", str(had), str(has), _change(had, has))
            for kind, (had, has) in self.groups.items()
        ]
        for name, had, has, form in (
            ("parameters", first.parameters, second.parameters, ","),
            ("folder, MB", first.megabytes, second.megabytes, ".1f"),
            ("one picture, GFLOP", first.gflop_image, second.gflop_image, ".3g"),
            ("one text, GFLOP", first.gflop_text, second.gflop_text, ".3g"),
            ("one picture, ms", 1e3 * first.seconds_image, 1e3 * second.seconds_image, ".2f"),
            ("one text, ms", 1e3 * first.seconds_text, 1e3 * second.seconds_text, ".2f"),
        ):
            rows.append((name, format(had, form), format(has, form), _change(had, has)))
        if self.bits is not None:
            kept = f"{self.bits.bits}, of {self.bits.numbers / self.bits.total:.0%}"
            rows.insert(len(self.groups) + 1, ("bits of a number", "32", kept, ""))
        difference = f"{second.quality - first.quality:+.3f}"
        rows.append((METRICS[self.metric], f"{first.quality:.3f}", f"{second.quality:.3f}", difference))
        return ("", "before", "after", "change"), rows

    def conclusion(self) -> list[str]:
        """Size, time and quality, a sentence."""
        first, second = self.before, self.after
        fewer = f"{1 - second.parameters / first.parameters:.0%} fewer parameters; " if self.groups else ""
        folder = f"a folder of {second.megabytes / first.megabytes:.0%} of the size; " if self.bits else ""
        return [
            f"{fewer}{folder}a picture takes "
            f"{second.seconds_image / first.seconds_image:.2f} of the time, a text "
            f"{second.seconds_text / first.seconds_text:.2f}; {self.metric} {first.quality:.3f} before and "
            f"{second.quality:.3f} after (chance {self.chance:.3f}), on {number_of(self.held_out, 'picture')} "
            "that are held out."
        ]

    def remarks(self) -> list[str]:
        target = f"{self.request.amount or 0:.0%}"  # nothing, and no groups, where weights are rounded alone
        reached = [
            f"{self._fraction(kind)} of the {PLURALS[kind]}" for kind in self.groups if self._fraction(kind) != target
        ]
        rounded = f"Modules go whole, rounded down in each layer: of the {target} asked for that is {_listed(reached)}."
        threads = "thread" if self.threads == 1 else "threads"
        return ([rounded] if reached else []) + [
            f"Times are medians of {REPEATS} forwards of one, both models in turn, on {self.request.device} with "
            f"{self.threads} {threads}, without reading and resizing the picture.",
            *([] if self.bits is None else self.bits.remarks(number_of(self.judged, "picture"))),
            *self._trained_before(),
            self.open_clip,
            *([] if self.onnx is None else [_onnx_words(self.onnx)]),
        ]

    def _trained_before(self) -> list[str]:
        """In which order an int8 model was trained and rounded."""
        if self.bits is None or self.bits.bits != INT8 or not self.request.steps:
            return []
        steps, them = number_of(self.request.steps, "step"), "it" if self.request.steps == 1 else "them"
        return [f"The {steps} of recovery came first, in float32, and the rounding after {them}."]

    def places(self) -> list[str]:
        files = [] if self.onnx is None else [f"image tower {self.onnx.image}", f"text tower {self.onnx.text}"]
        return [f"model {self.saved}", *files]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model, "data": self.source, "judged": self.judged, "held_out": self.held_out,
            "metric": self.metric, "chance": self.chance,
            "before": self.before.as_dict(), "after": self.after.as_dict(),
            "groups": {kind: {"before": had, "after": has} for kind, (had, has) in self.groups.items()},
            "bits": None if self.bits is None else self.bits.as_dict(),
            "onnx": None if self.onnx is None else self.onnx.as_dict(),
            "open_clip": self.open_clip,
            "threads": self.threads, "saved": self.saved,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }  # fmt: skip


def _listed(words: Sequence[str]) -> str:
    """With commas, and "and" before the last."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _onnx_words(onnx: OnnxTowers) -> str:
    image, text = onnx.checked["image"], onnx.checked["text"]
    return (
        f"The ONNX files (opset {onnx.opset}) take normalised pixels and token ids, and give features that are not "
        f"normalised; in onnxruntime they differ from torch's by {max(onnx.differences.values()):.0e} of the largest, "
        f"on {number_of(image, 'picture')} and {number_of(text, 'text')}."
    )


def _change(before: float, after: float) -> str:
    """In percent."""
    return f"{after / before - 1:+.0%}"
