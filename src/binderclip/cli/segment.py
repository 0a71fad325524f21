"""`binderclip segment`: which label every pixel belongs to."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.inputs import one_image, output_path
from binderclip.cli.options import Device, Dtype, Json, Labels, Model, parse_labels
from binderclip.cli.output import print_json, print_table
from binderclip.errors import DataError, UsageError


def segment(
    image: Annotated[str, typer.Argument(help="The image file.")],
    labels: Labels,
    background: Annotated[
        str, typer.Option(help="Words for what is none of the labels, separated by commas; they become one class.")
    ] = "",
    preset: Annotated[str, typer.Option(help="The method: `value` is the plain dense baseline.")] = "value",
    size: Annotated[
        int | None,
        typer.Option(help="Shorter side at which the model sees the image, in pixels [default: twice its own]."),
    ] = None,
    overlay: Annotated[str | None, typer.Option(help="PNG of the coloured image [default: NAME-overlay.png].")] = None,
    legend: Annotated[
        bool, typer.Option(help="Whether the overlay has a legend below; without it the size is the image's.")
    ] = True,
    label_map: Annotated[
        str | None, typer.Option("--map", help="PNG of label numbers, 255 = none [default: NAME-labels.png].")
    ] = None,
    model: Model = "small",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Colour an image by your labels (open vocabulary, nothing is trained), and save the label map.

    Example:

        binderclip segment street.jpg --labels "car,tree,house" --background "sky,road"
    """
    names = parse_labels(labels)
    words = parse_labels(background, "--background") if background.strip() else []
    if both := sorted(set(words) & set(names)):
        raise UsageError(f"{', '.join(map(repr, both))} is a label and background as well; leave it out of one of them")
    path = one_image(image)
    overlay_path = output_path(overlay, path, "overlay")
    map_path = output_path(label_map, path, "labels")
    if map_path.suffix.lower() != ".png":
        raise UsageError(f"--map {map_path}: label numbers are saved as PNG; another format would change them")

    from binderclip.cli.sheet import save_picture
    from binderclip.models import load
    from binderclip.segment import Segmenter

    segmenter = Segmenter(load(model, device=device, dtype=dtype), preset=preset, size=size, background=words)
    result = segmenter(path, names)
    save_picture(result.overlay(legend=legend), overlay_path)
    try:
        result.save(map_path)
    except OSError as error:
        raise DataError(f"cannot write {map_path}: {error.strerror or error}") from error
    shares = result.shares()
    if json:
        print_json(
            {
                "image": path,
                "model": model,
                "preset": preset,
                "classes": list(result.classes),
                "share": shares,
                "overlay": overlay_path,
                "label_map": map_path,
            }
        )
        return
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rows = [(name, f"{share:.1%}") for name, share in ordered]
    print_table(f"{path}, {preset}, model {model}", ("class", "share of the image"), rows)
    typer.echo(f"overlay {overlay_path}\nlabel map {map_path}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(segment)
