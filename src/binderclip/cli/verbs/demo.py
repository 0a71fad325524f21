"""`binderclip demo`: one page of a model that classifies, segments, searches, explains, and of another in training."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, Json, finite
from binderclip.cli.shared.output import note, print_json
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_paths
from binderclip.tasks.report.figures import figure_rows
from binderclip.tasks.report.page import Page

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

PRESET = "clip_dinoiser"
YOURS = (
    ("a label for every pixel of your photograph", 'binderclip segment photo.jpg --labels "cat,sofa"'),
    (
        "three few-shot heads compared on your folders of pictures",
        "binderclip adapt pets/ --methods gda,tip-adapter,prolip",
    ),
    ("find your pictures by words", "binderclip search index photos/"),
    ("all of this in the browser, with your own pictures", "binderclip workbench"),
)
"""What each command does with a user's own pictures, and the command."""
SCENE_LABELS = ("cat", "dog", "house", "moon", "flower", "tree", "heart", "cloud")


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the page and everything it shows."), OUTPUT
    ] = Path("demo"),
    epochs: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1000,
            callback=finite,
            help="Passes of the from-scratch model over its pictures; 4 take two minutes.",
        ),
    ] = 4.0,
    pictures: Annotated[
        int | None, typer.Option(min=10, max=10**6, help="Held-out pictures to search in [default: all of them].")
    ] = None,
    json: Json = False,
) -> None:
    """Show the bundled model at work, train another one for two minutes, and put it all on one page.

    Nothing is downloaded: pictures, photographs and the model come with the packages. The page can be opened
    while it grows.
    """
    output_folder(out)
    path = out / "index.html"
    writable_paths([path])
    if (run := out / "run").exists() and not (run / "recipe.toml").is_file():
        raise UsageError(f"{run} holds no run of `binderclip train` and would be deleted: give another --out")

    from binderclip.models import load

    start = time.perf_counter()
    clip = load(DEFAULT_MODEL)
    page = Page(
        "binderclip at work",
        "Made on this machine, offline, by <code>binderclip demo</code>, with the bundled model "
        f"<code>{clip.name}</code>. "
        'How to do the same with <a href="#your-own-pictures">your own pictures</a> stands at the end.',
    )
    sections: tuple[tuple[str, Callable[[], None]], ...] = (
        ("classify", lambda: _classify(page, clip)),
        ("segment", lambda: _segment(page, clip)),
        ("search", lambda: _search(page, clip, out, pictures)),
        ("explain", lambda: _explain(page, clip)),
        ("train", lambda: _train(page, out, epochs)),
        ("model", lambda: _model(page, clip)),
        ("yours", lambda: _yours(page)),
    )
    seconds: dict[str, float] = {}
    for name, make in sections:
        if name == "train":
            note(f"{path} has its pictures already; training comes last and takes two minutes")
        note(f"{name} ...")
        began = time.perf_counter()
        make()
        page.save(path)
        seconds[name] = round(time.perf_counter() - began, 1)
    if json:
        print_json({"page": path, "seconds": seconds})
        return
    typer.echo(f"done in {time.perf_counter() - start:.0f} s: open {path}")
    typer.echo("With your own pictures:")
    for does, command in YOURS:
        typer.echo(f"  {command:<58} {does}")


def _train(page: Page, out: Path, epochs: float) -> None:
    from binderclip import train

    run = out / "run"
    # Made again each time: training is what this section shows.
    shutil.rmtree(run, ignore_errors=True)
    result = train.run("scratch-64", out=run, epochs=epochs)
    stage = result.stages[-1]
    page.section(
        "Train",
        f"A small image tower and a text transformer, both from nothing, learn from clip art and emoji for "
        f"{result.seconds / 60:.1f} minutes ({stage.images_per_second:.0f} images/s). The table says how often the "
        "right picture or caption is among the first ten of all held-out ones, early and at the end. Some minutes are "
        "a demonstration: pretrained parts are worth far more than time.",
        "binderclip train scratch-64 --out runs/scratch",
    )
    plots = [run / "plots" / f"{name}.png" for name in ("recall", "loss", "gradient-norm", "scale")]
    page.strip([(plot, "") for plot in plots if plot.is_file()], width=480)
    before, after = stage.evaluations[0], stage.evaluations[-1]
    page.table(
        ("held-out measure", f"at step {before['step']:.0f}", f"at step {after['step']:.0f}"),
        [
            (name.replace("_", " "), float(before[name]), float(after[name]))
            for name in after
            if name.endswith("R@10") and name in before
        ],
    )


def _photographs() -> dict[str, Any]:
    from binderclip.data import load_data

    return {sample.key.split(".")[0]: sample.image for sample in load_data("photographs")}


def _classify(page: Page, clip: ImageTextModel) -> None:
    from PIL import ImageOps

    photographs = _photographs()
    chosen = ("chelsea", "coffee", "rocket", "motorcycle_left", "flower", "china", "coins", "astronaut")
    labels = [
        "a cat", "a dog", "a cup of coffee", "a rocket", "a motorcycle", "a flower", "a temple", "coins",
        "an astronaut", "a tree", "a boat", "a house", "a guitar", "a horse", "a pizza",
    ]  # fmt: skip
    result = clip.classify([photographs[name] for name in chosen], labels, top=3)
    page.section(
        "Classify",
        f"Photographs the model never saw, and {number_of(len(labels), 'label')} given as plain "
        f"words. Nothing is trained on the "
        "labels. Mistakes are left in.",
        f'binderclip classify photos/ --labels "{",".join(labels[:5])},..."',
    )
    page.strip(
        [
            (
                ImageOps.fit(photographs[name].convert("RGB"), (300, 300)),
                ", ".join(f"{label} {prob:.2f}" for label, prob in best[:2]),
            )
            for name, best in zip(chosen, result.top(), strict=True)
        ]
    )


def _search(page: Page, clip: ImageTextModel, out: Path, limit: int | None) -> None:
    from binderclip.data import join, load_data
    from binderclip.search import SearchIndex

    folder = out / "pictures"
    folder.mkdir(exist_ok=True)
    pictures = join([load_data("openclipart", split="test"), load_data("noto-emoji", split="test")])
    pictures = pictures if limit is None else pictures.subset(range(min(limit, len(pictures))))
    for sample in pictures:
        path = folder / f"{sample.source}-{sample.key}.png"
        if not path.exists():
            sample.image.resize((128, 128)).save(path)
    index = SearchIndex(out / "index", clip)
    began = time.perf_counter()
    report = index.update(folder)
    seconds = time.perf_counter() - began
    page.section(
        "Search",
        f"A folder of {len(index)} held-out pictures: {report.encoded} were encoded in {seconds:.0f} s, "
        f"{report.unchanged} were known from an earlier run (only what is new or changed is encoded). Then words, or a "
        "picture, find pictures; captions are never looked at.",
        f'binderclip search index {folder}\nbinderclip search query "a computer" --index {folder}',
    )
    for query in ("a computer", "a car", "flowers", "a warning sign"):
        page.text(f"<b>{query}</b>")
        page.strip([(hit.path, f"{hit.score:.2f}") for hit in index.query(query, top=6)])
    example = index.query("a bird", top=1)[0].path
    page.text("<b>more like this picture</b> (the first one)")
    page.strip([(hit.path, f"{hit.score:.2f}") for hit in index.query(example, top=6)])


def _segment(page: Page, clip: ImageTextModel) -> None:
    from dataclasses import replace

    import torch

    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes
    from binderclip.segment import GROUND, PRESETS, Segmenter

    photographs = _photographs()
    page.section(
        "Segment",
        "A label for every pixel, by words alone; what is none of them is background and stays grey.",
        'binderclip segment photo.jpg --labels "flower"',
    )
    cut, shown = Segmenter(clip), []
    for name, label in (("flower", "flower"), ("motorcycle_left", "motorcycle"), ("china", "palace")):
        shown.append((cut(photographs[name].convert("RGB"), [label]).overlay(), ""))
    page.strip(shown, width=300)
    words = vocabulary("scenes15", split="test").only(SCENE_LABELS)
    batch = scenes(3, 2, 256, vocabulary=words, objects=(2, 3), area=(0.08, 0.25), occlusion=0.1, background="gradient")
    segmenter = Segmenter(clip, PRESET, background=GROUND)
    page.text(
        "Scenes pasted together from held-out pictures, so that the true mask of every object is known: first the "
        "scene, then the answer, then the truth. "
        f"<code>{PRESET}</code> is for drawings; <code>binderclip segment-presets</code> says what the other "
        f"{len(PRESETS) - 1} are for."
    )
    for row in range(len(batch)):
        segmentation = segmenter(batch.images[row], list(SCENE_LABELS))
        names = [segmentation.classes.index(name) for name in batch.classes]
        truth = replace(segmentation, labels=torch.tensor(names)[batch.semantic[row]].int())
        page.strip(
            [
                (segmentation.image, batch.captions[row]),
                (segmentation.overlay(), "what the model says"),
                (truth.overlay(), "the truth"),
            ],
            width=300,
        )


def _explain(page: Page, clip: ImageTextModel) -> None:
    from PIL import ImageOps

    from binderclip.explain import METHODS

    photographs = _photographs()
    page.section(
        "Explain",
        "Where a picture speaks for a text: where the classifier beside the tower sees it (concepts), and the gradient "
        "at the pixels of noisy copies (SmoothGrad). <code>--compare</code> runs all methods and tests their maps by "
        "taking pixels away in order.",
        'binderclip explain chelsea.png --label "a cat"',
    )
    for name, text in (("chelsea", "a cat"), ("coffee", "a cup of coffee"), ("rocket", "a rocket")):
        picture = ImageOps.fit(photographs[name].convert("RGB"), (256, 256))
        drawn = [
            (METHODS[method]()(clip, [picture], text).overlay(picture), method) for method in ("concepts", "smoothgrad")
        ]
        page.strip([(picture, text), *drawn], width=300)


def _model(page: Page, clip: ImageTextModel) -> None:
    figures = clip.card.get("figures", {})
    summary = clip.card.get("summary", "The bundled model").rstrip(".")
    page.section(
        "The model",
        f"{summary}. These figures were measured when it was made, on held-out pictures, and travel with its weights. "
        f"In {clip.card.get('unit', 'plain numbers')}.",
        "binderclip info",
    )
    page.table(("data", "measure", "value"), figure_rows(figures))


def _yours(page: Page) -> None:
    """The last section: the commands for a user's own pictures."""
    page.section(
        "Your own pictures",
        "Type one of these in a terminal. <code>pets/</code> holds one folder of pictures for each class; of "
        "everything else a file or a folder will do.",
    )
    for does, command in YOURS:
        page.text(f"{does}:")
        page.command(command)
    page.text(
        "What is near none of ImageNet's thousand classes <code>everyday</code> names badly. With "
        "<code>--model open_clip:ViT-B-32/openai</code> the same commands use a real CLIP, which is downloaded once."
    )


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(demo)
