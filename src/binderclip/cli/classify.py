"""`binderclip classify`: which label fits each image."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.inputs import Images, find_images, picture_path
from binderclip.cli.options import BatchSize, Device, Dtype, Json, Labels, Model, parse_labels
from binderclip.cli.output import note, print_json, print_table, warn_skipped
from binderclip.cli.zero_shot import (
    Context,
    CropFrom,
    DescriptionsFile,
    PoolName,
    Templates,
    ViewsName,
    classify_views,
    parse_zero_shot,
)


def classify(
    images: Images,
    labels: Labels,
    templates: Templates = None,
    descriptions: DescriptionsFile = None,
    pool: PoolName = None,
    context: Context = None,
    views: ViewsName = "whole",
    crop_from: CropFrom = None,
    top: Annotated[int, typer.Option(min=1, help="Labels to show for each image.")] = 3,
    picture: Annotated[
        str | None, typer.Option("--picture", help="Also save a sheet of the images with their labels to this PNG.")
    ] = None,
    model: Model = "small",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Say which of your labels fits each image (zero-shot: nothing is trained).

    Examples:

        binderclip classify photo.jpg --labels "cat,dog,a cup of coffee"

        binderclip classify holiday/ -l beach,mountain,city --picture sheet.png

        binderclip classify pets/ -l cat,dog,horse --descriptions animals --pool auto

        binderclip classify street/ -l car,bicycle,bus --views crops

    A file that cannot be read is left out and named; the others are done.
    """
    names = parse_labels(labels)
    found = find_images(images)
    sheet = picture_path(picture) if picture else None
    options = parse_zero_shot(
        names,
        templates=templates,
        descriptions=descriptions,
        pool=pool,
        context=context,
        views=views,
        crop_from=crop_from,
    )

    from binderclip.models import load

    clip = load(model, device=device, dtype=dtype)
    if options.plain:
        bank = clip.text_bank(names, templates or "simple")
        encoded = clip.encode_files(found.paths, batch_size=batch_size)
        probs = clip.classify_features(encoded.features, bank).probs
    else:
        encoded, probs = classify_views(clip, options, found.paths, batch_size=batch_size)
    top = min(top, len(names))
    order = probs.argsort(dim=-1, descending=True)[:, :top]
    rows = [
        (path, [(names[c], float(probs[row, c])) for c in order[row].tolist()])
        for row, path in enumerate(encoded.paths)
    ]
    if json:
        print_json(
            {
                "model": model,
                "labels": names,
                "images": [{"image": p, "labels": [{"label": n, "prob": v} for n, v in best]} for p, best in rows],
                "skipped": [{"image": key, "reason": reason} for key, reason in encoded.skipped],
            }
        )
    elif rows:
        columns = ["image", "label", "prob"] + [f"{n}." for n in range(2, top + 1)]
        print_table(
            f"{len(rows)} image{'s' if len(rows) > 1 else ''}, {len(names)} labels, model {model}",
            columns,
            [[str(p), best[0][0], best[0][1], *[f"{n} {v:.3f}" for n, v in best[1:]]] for p, best in rows],
        )
    warn_skipped(encoded.skipped)
    if sheet and rows:
        from binderclip.cli.sheet import contact_sheet

        contact_sheet([(p, best[0][0], f"{best[0][1]:.2f}") for p, best in rows], sheet)
        note(f"sheet {sheet}" + (f" (the first 60 of {len(rows)} images)" if len(rows) > 60 else ""))
    if not rows:
        raise typer.Exit(1)
    raise typer.Exit(found.exit_code(encoded.skipped))


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(classify)
