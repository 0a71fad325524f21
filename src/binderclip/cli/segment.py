"""`binderclip segment`: which label every pixel belongs to."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.inputs import one_image, output_path
from binderclip.cli.options import Device, Dtype, Json, Labels, Model, parse_labels
from binderclip.cli.output import print_json, print_table


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
    words = parse_labels(background) if background else []
    path = one_image(image)
    overlay_path = output_path(overlay, path, "overlay")
    map_path = output_path(label_map, path, "labels")

    from binderclip.models import load
    from binderclip.segment import Segmenter

    segmenter = Segmenter(load(model, device=device, dtype=dtype), preset=preset, size=size, background=words)
    result = segmenter(path, names)
    result.overlay().save(overlay_path)
    result.save(map_path)
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
    print_table(f"{path}, {preset}, model {model}", ("class", "share of the image"), ordered)
    typer.echo(f"overlay {overlay_path}\nlabel map {map_path}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(segment)
