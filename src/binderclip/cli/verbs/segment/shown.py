"""What `binderclip segment` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from binderclip.cli.shared.output import print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.tasks.files.inputs import ImageArguments
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.segment.run import Done, LabelMapRequest, segment_images


def show_segments(request: LabelMapRequest, found: ImageArguments, names: Sequence[str], **places: Any) -> int:
    """Segment, save and print; the exit code.

    Args:
        request, found, names, places: as `segment_images` takes them.
    """
    with stages("looking at the pictures"):
        result = segment_images(request, found, names, **places)
    _show(request, result.done, result.many, result.skipped)
    if not request.json:
        note_weak_on_photographs(request.model, [one.path for one in result.done])
    warn_skipped(result.skipped)
    return found.exit_code(result.skipped)


def _show(request: LabelMapRequest, done: Sequence[Done], many: bool, skipped: Sequence[tuple[str, str]]) -> None:
    if request.json:
        documents = [
            {
                "image": one.path,
                **request.described,
                "classes": list(one.classes),
                "share": one.shares(),
                "overlay": one.overlay,
                "label_map": one.label_map,
            }
            for one in done
        ]
        left_out = [{"image": key, "reason": reason} for key, reason in skipped]
        print_json({"images": documents, "skipped": left_out} if many else documents[0])
        return
    if many:
        rows_ = [(str(one.path), *_largest(one)) for one in done]
        print_table(f"{number_of(len(done), 'image')}, {request.title}", ("image", "largest", "share"), rows_)
        typer.echo(f"NAME-overlay.png and NAME-labels.png of each in {short_path(done[0].overlay.parent)}/")
        return
    for one in done:
        ordered = sorted(one.shares().items(), key=lambda item: -item[1])
        rows = [(name, f"{share:.1%}") for name, share in ordered]
        print_table(f"{one.path}, {request.title}", ("class", "share of the image"), rows)
        absent = [name for name, share in one.shares().items() if not share and name != "background"]
        if absent:
            gated = "; --set fusion.gate=0 marks the likeliest places" if request.title.startswith("photograph") else ""
            typer.echo(f"not found in the picture: {', '.join(absent)}{gated}")
        typer.echo(f"overlay {one.overlay}\nlabel map {one.label_map}")


def _largest(one: Done) -> tuple[str, str]:
    """The label of the largest area, `background` only where there is nothing else."""
    shares = one.shares()
    ground = shares.pop("background", 0.0) if len(shares) > 1 else 0.0
    name, share = max(shares.items(), key=lambda item: item[1])
    return (name, f"{share:.1%}") if share else ("background", f"{ground:.1%}")
