"""What `spikes` does: the steps of a run whose gradient stood out, and the picture of its norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.optim.clip.spikes import FILE, ClipHistory, Spike, clipping_figure, join_histories, read_clip_log
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.files.outputs import picture_path
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.sheet import figure_picture, save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.spikes.request import SpikesRequest

MOST = 20
"""Spikes of a stage that a table shows."""
COLUMNS = ("step", "norm", "usual", "ratio", "limit", "kept", "largest parts")


@dataclass(frozen=True)
class StageClipping:
    """What was recorded of a stage.

    Attributes:
        stage: its name; empty for a log of the user's own.
        history: norms, limits and spikes.
        name: what the tables call it.
        top: parameters that are named for each spike.
    """

    stage: str
    history: ClipHistory
    name: str
    top: int

    @property
    def title(self) -> str:
        """How many spikes, and how many steps were clipped."""
        steps, spikes = len(self.history.step), len(self.history.spikes)
        if not steps:
            return f"{self.name}: no steps yet"
        skipped = int(self.history.skipped.sum())
        return (
            f"{self.name}: {spikes or 'no'} spike{'' if spikes == 1 else 's'} in {number_of(steps, 'step')}, "
            f"{self.history.clipped.mean():.1%} clipped{f', {skipped} skipped' if skipped else ''}"
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """A row a spike, the largest, by their steps."""
        largest = sorted(self.history.spikes, key=lambda s: -(s.ratio if math.isfinite(s.ratio) else math.inf))
        return [
            (
                str(s.step), _number(s.norm), _number(s.usual), f"{s.ratio:.1f}x" if math.isfinite(s.ratio) else "",
                f"{s.limit:.3g}" if math.isfinite(s.limit) else "none",
                "skipped" if s.skipped else f"{s.scale:.1%}", _parts(s, self.top),
            )
            for s in sorted(largest[:MOST], key=lambda s: s.step)
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "stage": self.stage,
            "clips": self.history.clips,
            "steps": len(self.history.step),
            "clipped": int(self.history.clipped.sum()),
            "skipped": int(self.history.skipped.sum()),
            "spikes": [_entry(spike, self.top) for spike in self.history.spikes],
        }


@dataclass(frozen=True)
class SpikesReport(VerbResult):
    """Where the gradient of a run stood out.

    Attributes:
        stages: of the run, in order.
        picture: the file.
    """

    request: SpikesRequest
    stages: list[StageClipping]
    picture: Path

    @property
    def title(self) -> str:
        """That of the first stage with spikes."""
        return self._spiked[0].title if self._spiked else self.stages[0].title

    @property
    def _spiked(self) -> list[StageClipping]:
        return [stage for stage in self.stages if stage.history.spikes]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a spike of the first stage that has any."""
        return COLUMNS, self._spiked[0].rows() if self._spiked else []

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """The same of the other stages that have any."""
        return [(stage.title, COLUMNS, stage.rows()) for stage in self._spiked[1:]]

    def conclusion(self) -> list[str]:
        """The stages without spikes, and how each was clipped."""
        calm = [stage.title for stage in self.stages if not stage.history.spikes]
        clips = [
            f"{stage.stage}: {text}" if stage.stage else text
            for stage in self.stages
            if (text := " then ".join(stage.history.clips)) and len(stage.history.step)
        ]
        return calm + clips

    def remarks(self) -> list[str]:
        """How many spikes are not in the tables."""
        counts = [len(stage.history.spikes) for stage in self.stages]
        return [f"the {MOST} largest; --json lists all {count}" for count in counts if count > MOST]

    def places(self) -> list[str]:
        """Where the picture is."""
        return [f"picture: {short_path(self.picture)}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "run": Path(self.request.run),
            "picture": self.picture,
            "stages": [stage.as_dict() for stage in self.stages],
            "request": self.request.as_document(),
        }


def run(request: SpikesRequest) -> SpikesReport:
    """Read what was recorded of a run's clipping, and draw it.

    Raises:
        UsageError: no such folder, or a picture that would replace what is none of ours.
        DataError: nothing was recorded, or the record is damaged.
    """
    folder = Path(request.run)
    logs = _logs(folder)
    picture = picture_path(request.picture or folder / "spikes.png")
    start("reading the record of clipping")
    shown = short_path(folder)
    stages = [
        StageClipping(stage, read_clip_log(path), f"{shown}, stage {stage}" if stage else shown, request.top)
        for stage, path in logs
    ]
    if not any(len(stage.history.step) for stage in stages):
        raise DataError(f"{folder}: nothing was recorded of its clipping yet")
    histories, steps = [], 0
    for stage in stages:
        histories.append((steps, stage.history))
        steps += int(stage.history.step[-1]) if len(stage.history.step) else 0
    start("drawing")
    figure = clipping_figure(join_histories(histories), f"{folder.name}: gradient norm")
    save_picture(figure_picture(figure, dpi=120), picture)
    emit(Saved(picture))
    return SpikesReport(request, stages, picture)


def _logs(folder: Path) -> list[tuple[str, Path]]:
    """(stage, file) of every log in a run; the stage is "" for a log of the user's own.

    Raises:
        UsageError: no such folder.
        DataError: it holds no log.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name the folder of the run")
    if (folder / FILE).is_file():
        return [("", folder / FILE)]
    if not folder.exists():
        raise UsageError(f"there is no folder {folder}")
    logs = sorted((folder / "clipping").glob(f"*/{FILE}"))
    if not logs:
        reason = "was trained before runs kept a record of it, or has not taken a step yet"
        if not (folder / "recipe.toml").is_file():
            reason = "is no run of `binderclip train`, and no ClipLog(out=...) wrote there"
        raise DataError(f"{folder} holds no record of clipping: it {reason}")
    return [(path.parent.name.partition("-")[2], path) for path in logs]


def _entry(spike: Spike, top: int) -> dict[str, Any]:
    return {
        "step": spike.step,
        "norm": _finite(spike.norm),
        "usual": _finite(spike.usual),
        "ratio": _finite(spike.ratio),
        "limit": _finite(spike.limit),
        "kept": _finite(spike.scale),
        "skipped": spike.skipped,
        "top": [{"name": n, "norm": _finite(norm), "share": _finite(part)} for n, norm, part in spike.top[:top]],
        **({"note": spike.note} if spike.note else {}),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite" if math.isnan(value) else "inf"


def _parts(spike: Spike, top: int) -> str:
    """The parameters that contributed most, or what the clip said."""
    if spike.note:
        return spike.note
    return ", ".join(
        f"{name} {part:.0%}" if math.isfinite(part) else name if math.isfinite(norm) else f"{name} (not finite)"
        for name, norm, part in spike.top[:top]
    )
