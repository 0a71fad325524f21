"""`binderclip spikes`: where the gradient of a run stood out, how large it was, and which parameters caused it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import console, note, print_json, print_table
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.outputs import OUTPUT, picture_path
from binderclip.tasks.files.writing import short_path

if TYPE_CHECKING:
    from binderclip.optim import ClipHistory, Spike

MOST = 20


def spikes(
    run: Annotated[
        Path, typer.Argument(help="A run folder of `binderclip train`, or the `out` folder of a `ClipLog`.")
    ],
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Parameters that are named for each spike.")] = 5,
    picture: Annotated[
        Path | None, typer.Option("--picture", "-p", help="The picture [default: RUN/spikes.png]."), OUTPUT
    ] = None,
    json: Json = False,
) -> None:
    """Show where the gradient of a run stood out, how large it was, and which parameters contributed most.

    A spike is a norm of more than twice the median of the 20 before it that also stands out from their noise. The limit
    is the clip's; `kept` is the factor it applied, 0 where the step was skipped. A parameter's share is that of the
    squared norm.

    Examples:

        binderclip spikes runs/a

        binderclip spikes runs/a --top 3 --json
    """
    logs = _logs(run)
    drawn = picture_path(picture or run / "spikes.png")
    from binderclip.optim.clip.spikes import clipping_figure, join_histories, read_clip_log
    from binderclip.tasks.report.sheet import figure_picture, save_picture

    parts = [(stage, read_clip_log(path)) for stage, path in logs]
    if not any(len(history.step) for _, history in parts):
        raise DataError(f"{run}: nothing was recorded of its clipping yet")
    starts, total = [], 0
    for _, history in parts:
        starts.append((total, history))
        total += int(history.step[-1]) if len(history.step) else 0
    figure = clipping_figure(join_histories(starts), f"{run.name}: gradient norm")
    save_picture(figure_picture(figure, dpi=120), drawn)
    if json:
        print_json({"run": run, "picture": drawn, "stages": [_document(stage, h, top) for stage, h in parts]})
        return
    for stage, history in parts:
        _show(run, stage, history, top)
    note(f"picture: {short_path(drawn)}")


def _logs(run: Path) -> list[tuple[str, Path]]:
    """(stage, file) of every log in a run; the stage is "" for a log of the user's own."""
    from binderclip.optim.clip.spikes import FILE

    if run.is_file():
        raise UsageError(f"{run} is a file; name the folder of the run")
    if (run / FILE).is_file():
        return [("", run / FILE)]
    if not run.exists():
        raise UsageError(f"there is no folder {run}")
    found = sorted((run / "clipping").glob(f"*/{FILE}"))
    if not found:
        what = "was trained before runs kept a record of it, or has not taken a step yet"
        if not (run / "recipe.toml").is_file():
            what = "is no run of `binderclip train`, and no ClipLog(out=...) wrote there"
        raise DataError(f"{run} holds no record of clipping: it {what}")
    return [(path.parent.name.partition("-")[2], path) for path in found]


def _document(stage: str, history: ClipHistory, top: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "clips": history.clips,
        "steps": len(history.step),
        "clipped": int(history.clipped.sum()),
        "skipped": int(history.skipped.sum()),
        "spikes": [_entry(spike, top) for spike in history.spikes],
    }


def _entry(spike: Spike, top: int) -> dict[str, Any]:
    return {
        "step": spike.step,
        "norm": _finite(spike.norm),
        "usual": _finite(spike.usual),
        "ratio": _finite(spike.ratio),
        "limit": _finite(spike.limit),
        "kept": _finite(spike.scale),
        "skipped": spike.skipped,
        "top": [{"name": n, "norm": _finite(norm), "share": _finite(share)} for n, norm, share in spike.top[:top]],
        **({"note": spike.note} if spike.note else {}),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _show(run: Path, stage: str, history: ClipHistory, top: int) -> None:
    steps, skipped = len(history.step), int(history.skipped.sum())
    name = f"{short_path(run)}, stage {stage}" if stage else short_path(run)
    gone = f", {skipped} skipped" if skipped else ""
    if not steps:
        console.print(f"{name}: no steps yet", style="bold", highlight=False, markup=False)
        return
    count = len(history.spikes)
    title = (
        f"{name}: {count or 'no'} spike{'' if count == 1 else 's'} in {number_of(steps, 'step')}, "
        f"{history.clipped.mean():.1%} clipped{gone}"
    )
    console.print(" then ".join(history.clips), style="dim", highlight=False, markup=False, soft_wrap=True)
    if not count:
        console.print(title, style="bold", highlight=False, markup=False)
        return
    largest = sorted(history.spikes, key=lambda spike: -(spike.ratio if math.isfinite(spike.ratio) else math.inf))
    shown = sorted(largest[:MOST], key=lambda spike: spike.step)
    rows = [[str(s.step), *map(_shown, (s.norm, s.usual)), _times(s.ratio), _limit(s.limit), _kept(s), _names(s, top)]
            for s in shown]  # fmt: skip
    print_table(title, ("step", "norm", "usual", "ratio", "limit", "kept", "largest parts"), rows)
    if count > MOST:
        note(f"the {MOST} largest; --json lists all {count}")


def _shown(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "not finite" if math.isnan(value) else "inf"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if math.isfinite(ratio) else ""


def _limit(limit: float) -> str:
    return f"{limit:.3g}" if math.isfinite(limit) else "none"


def _kept(spike: Spike) -> str:
    return "skipped" if spike.skipped else f"{spike.scale:.1%}"


def _names(spike: Spike, top: int) -> str:
    if spike.note:
        return spike.note
    parts = [
        f"{name} {share:.0%}" if math.isfinite(share) else name if math.isfinite(norm) else f"{name} (not finite)"
        for name, norm, share in spike.top[:top]
    ]
    return ", ".join(parts)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(spikes)
