"""`binderclip segment --evaluate`: presets measured on true label maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from binderclip.cli.shared.output import print_json, print_table, warn_skipped
from binderclip.tasks.verbs.segment.presets import SegmentRequest, build_segmenters, chosen_parts

if TYPE_CHECKING:
    from binderclip.segment import Measured


def measure(request: SegmentRequest, source: str, limit: int) -> None:
    """Presets on label maps: a table, with intervals against the first."""
    from itertools import islice

    from binderclip.data.labelled.label_maps import SCENES, label_maps
    from binderclip.segment import measure_segmenters

    chosen_parts(request)  # a wrong name is said before scenes are made
    made = {"n": limit, "background": bool(request.background)}
    data = label_maps(source, **made) if source in SCENES else label_maps(source)
    segmenters = build_segmenters(request, [name for name in data.classes if name != "background"])

    class Limited:
        classes = data.classes

        @property
        def skipped(self) -> Any:
            return data.skipped

        def __iter__(self) -> Any:
            return islice(iter(data), limit)

    found = measure_segmenters(segmenters, Limited(), details=True)
    rows = _measured_rows(found)
    if request.json:
        per_class = {
            name: dict(zip(found.classes, _or_none(score.per_class.tolist()), strict=True))
            for name, score in found.scores.items()
        }
        print_json(
            {
                "data": source,
                "model": request.model,
                "images": len(found.keys),
                "presets": rows,
                "per_class": per_class,
                "skipped": [{"image": key, "reason": reason} for key, reason in found.skipped],
            }
        )
        return
    first = rows[0]["preset"]
    ground = ", background left out" if rows[0]["ece_foreground_only"] else ""
    shown = [
        [r["preset"], r["miou"], r["accuracy"], *("" if r[k] is None else r[k] for k in ("boundary_f", "ece")),
         "" if r["difference"] is None else _interval(r["difference"])]
        for r in rows
    ]  # fmt: skip
    columns = (
        "preset", "mIoU", "pixel accuracy", "boundary F", f"ECE{ground}", f"mean IoU of an image, minus {first}'s",
    )  # fmt: skip
    counts = f"{_several(len(found.keys), 'image')}, {_several(len(found.classes), 'class', 'classes')}"
    print_table(f"{source}: {counts}, {request.model}", columns, shown)
    warn_skipped(found.skipped)


def _measured_rows(found: Measured) -> list[dict[str, Any]]:
    """What is said of every preset; None where there was nothing to measure."""
    first = next(iter(found.scores))
    rows: list[dict[str, Any]] = []
    for name, score in found.scores.items():
        boundary, calibration = found.boundaries.get(name), found.calibration.get(name)
        rows.append(
            {
                "preset": name,
                "miou": score.miou,
                "accuracy": score.accuracy,
                "boundary_f": None if boundary is None else boundary.mean,
                "ece": None if calibration is None else calibration.ece,
                "ece_foreground_only": calibration is not None and calibration.foreground_only,
                "difference": _or_none(found.difference(name, first)) if name != first else None,
            }
        )
    return rows


def _several(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _or_none(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if math.isnan(value) else value for value in values]


def _interval(gap: Sequence[float | None]) -> str:
    mean, low, high = gap
    return f"{mean:+.3f}" if low is None else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
