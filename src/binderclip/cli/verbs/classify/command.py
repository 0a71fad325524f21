"""`binderclip classify`: which label fits each image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.shared.options import (
    DEFAULT_MODEL,
    LABELS,
    MODEL,
    BatchSize,
    Device,
    Dtype,
    Images,
    Json,
    Mark,
    MarkBox,
    TransformName,
)
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.cli.verbs.classify.options import Context, CropFrom, DescriptionsFile, PoolName, Templates, ViewsName
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.arguments.marks import parse_mark
from binderclip.tasks.arguments.transform import fitted, parse_transform
from binderclip.tasks.events import batches
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT, picture_path
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.classify.run import LabelAnswers, by_head, by_labels
from binderclip.tasks.verbs.classify.zero_shot import parse_zero_shot


def classify(
    images: Images,
    labels: Annotated[str | None, LABELS] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", help="Instead of --labels: a folder that `binderclip adapt` left, with its classes."),
    ] = None,
    templates: Templates = None,
    descriptions: DescriptionsFile = None,
    pool: PoolName = None,
    context: Context = None,
    views: ViewsName = "whole",
    crop_from: CropFrom = None,
    transform: TransformName = None,
    mark: Mark = None,
    box: MarkBox = None,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Labels to show for each image.")] = 3,
    picture: Annotated[
        str | None,
        typer.Option("--picture", help="Also save a sheet of the images with their labels to this PNG."),
        OUTPUT,
    ] = None,
    model: Annotated[str | None, MODEL] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Say which of your labels fits each image: zero-shot by --labels, or by a --head that learned them.

    Examples:

        binderclip classify photo.jpg --labels "cat,dog,a cup of coffee"

        binderclip classify holiday/ -l beach,mountain,city --picture sheet.png

        binderclip classify pets/ -l cat,dog,horse --descriptions animals --pool auto

        binderclip classify street/ -l car,bicycle,bus --views crops

        binderclip classify shelf.jpg -l apple,clock,cat --mark blur --box 20,10,120,90

        binderclip classify pets/ -l cat,dog,horse --transform gap-removal

        binderclip classify new/ --head adapt

    A file that cannot be read is left out and named; the others are done.
    """
    if (labels is None) == (head is None):
        raise UsageError("give --labels cat,dog,... or --head FOLDER, one of them")
    given = {"--templates": templates, "--descriptions": descriptions, "--pool": pool, "--context": context}
    given |= {"--crop-from": crop_from, "--views": None if views == "whole" else views, "--transform": transform}
    if head is not None and any(value is not None for value in given.values()):
        name = next(name for name, value in given.items() if value is not None)
        raise UsageError(f"{name} is about texts and does not go with --head, which has learned its classes")
    choice = parse_transform(transform)
    if choice and (any((descriptions, pool, context, crop_from)) or views != "whole"):
        raise UsageError("--transform goes with --labels and --templates: pools, views and contexts take plain cosines")
    marked = parse_mark(mark, box)
    if marked and (head is not None or views != "whole" or crop_from is not None):
        raise UsageError("--mark shows one picture of each image to labels: leave out --views, --crop-from and --head")
    names = None if labels is None else parse_labels(labels)
    found = find_images(images)
    sheet = picture_path(picture) if picture else None
    running: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size}
    if names is None:
        assert head is not None
        answers = by_head(head, found.paths, top=top, model=model, **running)
    else:
        options = parse_zero_shot(
            names,
            templates=templates,
            descriptions=descriptions,
            pool=pool,
            context=context,
            views=views,
            crop_from=crop_from,
        )
        from binderclip.models import load, load_encoder

        with stages("loading the model") as say:
            opened = load_encoder if options.plain else load
            clip = opened(DEFAULT_MODEL if model is None else model, device=device, dtype=dtype)
            if choice:
                clip = clip.with_transform(fitted(clip, choice, batch_size=batch_size))
            say(f"looking at {number_of(len(found.paths), 'picture')}")
            step, count = batches("picture"), len(found.paths)
            answers = by_labels(
                clip, options, found.paths, top=top, mark=marked, batch_size=batch_size,
                progress=lambda done: step(done, count),
            )  # fmt: skip
    _show(answers, top, json)
    if not json and names is not None:
        note_weak_on_photographs(answers.model, [path for path, _ in answers.rows])
    if sheet and answers.rows:
        from binderclip.tasks.report.sheet import contact_sheet

        cards = [(path, best[0][0], f"{best[0][1]:.2f}") for path, best in answers.rows]
        shown = [path for path, _ in answers.rows[:60]]
        frames = _seen(answers.preprocess, shown)
        contact_sheet(cards, sheet, names=[Path(path).name for path, _ in answers.rows], frames=frames)
        if any(frame != (0.0, 0.0, 1.0, 1.0) for frame in frames):
            note("the model saw what is inside the frames; --views tiles looks at the whole of each picture")
        count = len(answers.rows)
        note(f"sheet {sheet}" + (f" (the first 60 of {number_of(count, 'image')})" if count > 60 else ""))
    if not answers.rows:
        raise typer.Exit(1)
    raise typer.Exit(found.exit_code(answers.skipped))


def _seen(preprocess: Any, paths: list[Path]) -> list[tuple[float, float, float, float]]:
    """The part of each picture that the model's input shows, as shares of its width and height."""
    from binderclip.data import open_image
    from binderclip.explain.engine.placement import input_box

    if preprocess is None:
        return []
    found = []
    for path in paths:
        width, height = open_image(path).size
        box = input_box(preprocess, (height, width))
        shares = (box.left / width, box.top / height, (box.left + box.width) / width, (box.top + box.height) / height)
        found.append((max(0.0, shares[0]), max(0.0, shares[1]), min(1.0, shares[2]), min(1.0, shares[3])))
    return found


def _show(answers: LabelAnswers, top: int, json: bool) -> None:
    rows = answers.rows
    if json:
        print_json(
            {
                "model": answers.model,
                "labels": answers.labels,
                "images": [{"image": p, "labels": [{"label": n, "prob": v} for n, v in best]} for p, best in rows],
                "skipped": [{"image": key, "reason": reason} for key, reason in answers.skipped],
            }
        )
    elif rows:
        shown = max(len(best) for _, best in rows)
        columns = ["image", "label", "prob"] + [f"{n}." for n in range(2, shown + 1)]
        print_table(
            f"{number_of(len(rows), 'image')}, {number_of(len(answers.labels), 'label')}, model {answers.model}",
            columns,
            [[str(p), best[0][0], best[0][1], *[f"{n} {v:.3f}" for n, v in best[1:]]] for p, best in rows],
        )
    warn_skipped(answers.skipped)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(classify)
