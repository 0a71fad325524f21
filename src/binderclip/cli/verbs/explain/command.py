"""`binderclip explain`: where in the image, or in the caption, the evidence is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, MODEL, Device, Dtype, Json
from binderclip.cli.verbs.explain.run import FOLDER, ExplainRequest, compare_methods, explain_images
from binderclip.errors import UsageError
from binderclip.models.files.registry import has_concepts
from binderclip.tasks.files.inputs import find_images, one_image
from binderclip.tasks.files.outputs import OUTPUT


def explain(
    images: Annotated[
        list[str], typer.Argument(help="Image files or folders; with --words: one image and its caption.")
    ],
    label: Annotated[
        str | None, typer.Option("--label", "--text", "-l", help="The text to explain, such as `a cat`.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="`concepts`, `saliency`, `smoothgrad`, `integrated_gradients`, `gradcam`, `fullgrad` or another of "
            "`binderclip.explain.METHODS`; several with commas, or `all`, for --compare. [default: concepts with "
            "everyday, which points at things; saliency with other models and heads]"
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Run all methods (or those of --method): a sheet and their numbers. Several pictures leave out those "
            "that optimise a mask, unless `--method all`.",
        ),
    ] = False,
    words: Annotated[
        bool, typer.Option("--words", help="Which words of a caption fit: `explain --words IMAGE 'a red car'`.")
    ] = False,
    head: Annotated[
        Path | None,
        typer.Option("--head", help="Explain a class of a head that `binderclip adapt` left; --label is then a class."),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Where methods on feature maps look: a block such as `-1`, or a submodule's name."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="A setting of the method, such as `n_samples=25`."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="PNG of one image [default: NAME-explain.png], or a folder for several."),
        OUTPUT,
    ] = None,
    npy: Annotated[bool, typer.Option("--npy", help="Also save the raw maps, NAME-METHOD.npy, float32.")] = False,
    report: Annotated[
        str | None, typer.Option(help="Also write an HTML page with pictures and numbers."), OUTPUT
    ] = None,
    legend: Annotated[
        bool, typer.Option(help="Whether a strip below says what the colours mean; without it the size is the image's.")
    ] = True,
    model: Annotated[str | None, MODEL] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Draw where images speak for a text or a class, and test the maps.

    Examples:

        binderclip explain photo.jpg --label "a cat" --method smoothgrad

        binderclip explain photo.jpg --label "a cat" --compare --report methods.html

        binderclip explain pets/ --head adapt --method gradcam --out maps --npy

        binderclip explain --words photo.jpg "a dog on a red sofa"

    --compare deletes and inserts the pixels in the order of each map and says how the score answers; a random map
    stands beside them, for a map that looks good proves nothing.
    """
    if words:
        _words(images, label, out, report, model or DEFAULT_MODEL, device, dtype, json)
        return
    if label is None and head is None:
        raise UsageError("give --label, the text to explain, such as --label 'a cat' (or --head FOLDER)")
    found = find_images(images, without=FOLDER if compare or out is None else out)
    many = len(found.paths) > 1 or Path(images[0]).is_dir()
    if compare and head is None and model is None:
        # All methods take three quarters of a minute with everyday; most of them look into the tower of small anyway.
        model = "small"
    if method is None and not compare:
        method = "concepts" if head is None and has_concepts(model or DEFAULT_MODEL) else "saliency"
    request = ExplainRequest(
        found, label, method, layer, tuple(set or ()), head, model, device, dtype, out, npy, report, legend, json, many
    )
    raise typer.Exit(compare_methods(request) if compare else explain_images(request))


def _words(
    images: list[str], label: str | None, out: str | None, report: str | None, model: str, device: str, dtype: str,
    json: bool,
) -> None:  # fmt: skip
    if label is not None or len(images) != 2:
        raise UsageError("--words takes one image and its caption: explain --words photo.jpg 'a dog on a sofa'")
    from binderclip.cli.verbs.explain.words import explain_words

    explain_words(one_image(images[0]), images[1], model, device, dtype, out, json, report)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(explain)
