"""`binderclip explain`: where in the image the evidence for a label is."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.inputs import one_image, output_path
from binderclip.cli.options import Device, Dtype, Json, Model
from binderclip.cli.output import print_json
from binderclip.errors import UsageError


def explain(
    image: Annotated[str, typer.Argument(help="The image file.")],
    label: Annotated[str, typer.Option("--label", "-l", help="The text to explain, such as `a cat`.")],
    method: Annotated[
        str, typer.Option(help="`saliency` (gradient at the pixels), `gradcam`, or another of `binderclip.explain`.")
    ] = "saliency",
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="PNG of the overlay [default: NAME-explain.png].")
    ] = None,
    legend: Annotated[
        bool, typer.Option(help="Whether a strip below says what the colours mean; without it the size is the image's.")
    ] = True,
    model: Model = "small",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Draw where an image speaks for a label.

    Example:

        binderclip explain photo.jpg --label "a cat" --method gradcam
    """
    if not label.strip():
        raise UsageError("--label is empty: give the text to explain, such as --label 'a cat'")
    path = one_image(image)
    out_path = output_path(out, path, "explain")

    from binderclip.explain import METHODS
    from binderclip.models import load

    if method not in METHODS:
        raise UsageError(f"--method {method!r} is unknown; there are {', '.join(sorted(METHODS))}")
    from binderclip.cli.sheet import save_picture, with_scale
    from binderclip.data import open_image

    picture = open_image(path)
    clip = load(model, device=device, dtype=dtype)
    attribution = METHODS[method]()(clip, [picture], label)
    # ReLU may leave nothing; the first pixel of an empty map is no place.
    peak = attribution.peak() if bool(attribution.maps().any()) else None
    score = float(attribution.value[0])
    drawn = attribution.overlay(picture)
    if legend:
        signed = attribution.finish == "signed"
        text = f"{label}: cosine {score:.2f}, {method}"
        drawn = with_scale(drawn, text, attribution.ramp(), ("against", "for") if signed else ("no", "strong evidence"))
    save_picture(drawn, out_path)
    if json:
        print_json(
            {
                "image": path,
                "label": label,
                "method": method,
                "model": model,
                "cosine": score,
                "peak_xy": peak,
                "overlay": out_path,
            }
        )
        return
    where = f"strongest evidence at x {peak[0]}, y {peak[1]}" if peak else f"{method} finds no place that speaks for it"
    typer.echo(f"cosine with {label!r}: {score:.3f}; {where}\noverlay {out_path}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(explain)
