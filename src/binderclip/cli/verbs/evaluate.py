"""`binderclip evaluate`: retrieval and zero-shot accuracy of a model on a data set."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.shared.options import AllowPipe, BatchSize, Device, Dtype, Json, TransformName
from binderclip.cli.shared.output import print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.tasks.arguments.transform import fitted, parse_transform
from binderclip.tasks.events import batches
from binderclip.tasks.files.outputs import OUTPUT, writable_path
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import write_json


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A folder or zip of images with captions or class-named folders, a COCO folder, Parquet files, shard "
            "URLs `x-{000..009}.tar` or a folder of them, or a named set: `openclipart`, `noto-emoji`, `icons`, "
            "`openmoji`, `fashion-mnist`, `digits`, `photographs`, `textile`."
        ),
    ] = "openclipart",
    split: Annotated[str | None, typer.Option(help="Of a named set, or `all` [default: the held-out one].")] = None,
    templates: Annotated[str, typer.Option("--templates", "-t", help="Sentences around a class name.")] = "simple",
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Use only the first so many pictures.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file."), OUTPUT
    ] = None,
    transform: TransformName = None,
    allow_pipe: AllowPipe = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Measure a model: recall of captions and images, and zero-shot accuracy where the data has classes.

    Examples:

        binderclip evaluate small --data noto-emoji --split val

        binderclip evaluate small --data pets/ --templates photo

        binderclip evaluate small --data openmoji --transform gap-removal

    Of a folder with one sub-folder a class the accuracy comes first: which class name is most similar.
    """
    if out:
        writable_path(out)

    from binderclip.data import held_out_split, load_data
    from binderclip.evaluate import evaluate_model
    from binderclip.models import load_encoder, resolve_templates

    sentences, choice = resolve_templates(templates), parse_transform(transform)
    split = held_out_split(data) if split is None else split
    samples = load_data(data, split=None if split == "all" else split, allow_pipe=allow_pipe)
    with stages("loading the model") as say:
        clip = load_encoder(model, device=device, dtype=dtype)
        if choice:
            clip = clip.with_transform(fitted(clip, choice, batch_size=batch_size))
        total = len(samples) if hasattr(samples, "__len__") else None
        step = batches("picture")
        result = evaluate_model(
            clip,
            samples,
            templates=sentences,
            batch_size=batch_size,
            limit=limit,
            progress=lambda done: step(done, min(total, limit or total)) if total else say(f"picture {done}"),
        )
    document = {"model": model, "data": data, "split": split, **result.as_dict()}
    if choice:
        document["transform"] = {"name": choice.name, "fitted_on": choice.data}
    if out:
        save_or_keep(partial(write_json, document), out)
    if json:
        print_json(document)
    else:
        part = (f", split {split}" if split else "") + (f", {choice.name} first" if choice else "")
        rows = explained_rows(result.figures, class_names=_are_class_names(samples))
        print_table(
            f"{model} on {data}{part}: {number_of(result.count, 'picture')}", ("measure", "value", "which is"), rows
        )
    warn_skipped(result.skipped)


def explained_rows(figures: Mapping[str, float], *, class_names: bool) -> list[tuple[str, str, str]]:
    """(measure, value, what it means) of every figure.

    Args:
        figures: name -> value, as `evaluate_model` gives them.
        class_names: whether the captions are names of classes: then the accuracy comes first.
    """
    names = sorted(figures, key=lambda name: name.startswith("zero_shot/") != class_names)
    return [(_title(name), _value(name, figures[name]), _meaning(name, class_names)) for name in names]


def _title(name: str) -> str:
    return name.replace("zero_shot/", "zero-shot ").replace("/", " ").replace("top5", "top-5").replace("_", " ")


def _value(name: str, value: float) -> str:
    return f"{value:.0f}" if name.endswith("count") else f"{value:.1f}" if name.endswith("rank") else f"{value:.3f}"


def _meaning(name: str, class_names: bool) -> str:
    kind, _, measure = name.rpartition("/")
    text = "class name" if class_names else "caption"
    asked, found = ("pictures", text) if kind == "image_to_text" else (f"{text}s", "picture")
    if measure.startswith("R@"):
        k = measure.removeprefix("R@")
        among = "is the most similar" if k == "1" else f"is among the {k} most similar"
        return f"share of {asked} whose own {found} {among}"
    if measure.endswith("rank"):
        return f"place of the own {found} in the ranking, {measure.split('_')[0]} over {asked}"
    return {
        "accuracy": "share of pictures whose most similar class is the right one (top-1)",
        "top5": "share of pictures whose right class is among the five most similar",
        "mean_class_accuracy": "the accuracy of each class, averaged over classes",
        "majority": "what always answering the commonest class would get",
        "count": "pictures that have a class" if kind == "zero_shot" else "pictures and captions that were compared",
    }.get(measure, "")


def _are_class_names(samples: Any) -> bool:
    """Whether captions say no more than the class, as those of folders named after classes; of a stream not known."""
    captions = {str(caption) for caption in getattr(samples, "captions", ())}
    names = {name for each in samples.classes for name in (str(each), str(each).replace("_", " "))}
    return bool(captions) and captions <= names


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(evaluate)
