"""`binderclip segment`: which label every pixel belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, LABELS, MODEL, Device, Dtype, Json
from binderclip.cli.verbs.segment.example import HEAD, LABEL, ExampleRequest, one_label
from binderclip.cli.verbs.segment.measure import measure
from binderclip.cli.verbs.segment.preset_list import show_presets
from binderclip.cli.verbs.segment.sheet import compare_presets
from binderclip.cli.verbs.segment.shown import show_segments
from binderclip.cli.verbs.segment.task import FOLDER as TASK_FOLDER
from binderclip.cli.verbs.segment.task import TaskRequest, segment_task
from binderclip.cli.verbs.segment.trained import HeadRequest
from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT
from binderclip.tasks.verbs.segment.presets import (
    SegmentRequest,
    default_preset,
    ground_words,
    preset_names,
)
from binderclip.tasks.verbs.segment.run import FOLDER

TOWER = "small"
"""What heads, examples, tasks and measurements stand on where nobody says otherwise: methods on the image tower."""


def segment(
    images: Annotated[list[str] | None, typer.Argument(help="Image files, or folders of them.")] = None,
    labels: Annotated[str | None, LABELS] = None,
    background: Annotated[
        str | None,
        typer.Option(
            help="Words for what is none of the labels, separated by commas; they become one class. `none`: every "
            "pixel gets a label. [default: sky, wall, floor and the like; with --evaluate none]"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="The method; --list says what each is for. Several to compare or measure. [default: photograph, which "
            "cuts objects out, with everyday; clip_dinoiser, which finds the ground, with small; with others "
            "clip_dinoiser-teacher]"
        ),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Change a part of the preset: `rule.scale=40`, `refine=pamr`; with --task a setting of the "
            "method, such as `rounds=3`.",
        ),
    ] = None,
    descriptions: Annotated[
        str | None,
        typer.Option(
            help="Definitions or synonyms to mix into the labels' vectors: a JSON of label -> sentences, or a shipped "
            "set (`binderclip descriptions`). For presets with a `text.alpha`, such as itaclip."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Shorter side at which the model sees the image, in pixels [default: the preset's]."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="Folder of the results [default: segments for several images]."),
        OUTPUT,
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(help="PNG of the coloured image [default: NAME-overlay.png]."), OUTPUT
    ] = None,
    legend: Annotated[
        bool, typer.Option(help="Whether the overlay has a legend below; without it the size is the image's.")
    ] = True,
    label_map: Annotated[
        str | None, typer.Option("--map", help="PNG of label numbers, 255 = none [default: NAME-labels.png]."), OUTPUT
    ] = None,
    coco: Annotated[
        str | None, typer.Option(help="Also write all regions as COCO annotations to this JSON."), OUTPUT
    ] = None,
    csv: Annotated[str | None, typer.Option(help="Also write the area of every class in every image."), OUTPUT] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Do images again whose label map is already there.")] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="Instead of label maps, a PNG with all images by all presets (`--preset all`) side by side."),
        OUTPUT,
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Instead of labels one sentence for all pictures, such as `the hidden animal`: what it means in each "
            "is chosen among those of --labels (or of a bundled vocabulary) that it may mean, and printed. Writes "
            "NAME-mask.png, an overlay and NAME.json."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="For --task: `gensam` (words, heatmap, points, rounds), `int` (names tested by erasing), `slip` (of "
            "all masks the one most like the sentence), `zip` (instances of the words a picture shows, each with class "
            "and score)."
        ),
    ] = "gensam",
    ask: Annotated[
        str | None,
        typer.Option(metavar="URL", help="For --task: a language model names the object, at an OpenAI-compatible URL."),
    ] = None,
    ask_model: Annotated[str | None, typer.Option(metavar="NAME", help="The model's name there.")] = None,
    segmenter: Annotated[
        str, typer.Option(help="For --task: what makes masks, `small-sam` or any that `click` takes.")
    ] = "small-sam",
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PICTURE",
            help="Instead of labels a picture that shows what is wanted, with its --mask; several are asked one by one "
            "and vote. --labels may name it.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MASK", help="For --example: a picture of the same size, white or not 0 where the thing is."
        ),
    ] = None,
    mask_value: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="For --mask: which number of a label map is the thing."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="The folder of a head that was trained and saved (`train segmentation-head`, `segclip`, `sam-clip`); "
            "--labels then chooses among its classes. For --example: `prototype` or `prior`, rules without training on "
            "the features of --model (also lite0 and small-dino), or a folder of `segment.save_few_shot`. [default: "
            "prototype]"
        ),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(help="Measure instead, on a folder with label maps (VOC, ADE), or `scenes`, `scenes-hard`."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most pictures that --evaluate measures.")] = 60,
    list_presets: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Show the presets (or those of --preset), their parts, and how they differ from their papers.",
        ),
    ] = False,
    model: Annotated[str | None, MODEL] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Colour images by your labels (open vocabulary, nothing is trained), and save the label maps.

    Examples:

        binderclip segment street.jpg --labels "car,tree,house"

        binderclip segment street.jpg -l "car,tree,sky,road" --preset value --background none

        binderclip segment photos/ -l person,dog,ball --preset sclip --out masks --csv areas.csv --coco masks.json

        binderclip segment pet.jpg -l cat,dog --preset itaclip --descriptions animals

        binderclip segment photos/ -l person,dog,ball --preset value,sclip,cliper --compare sheet.png

        binderclip segment --evaluate scenes-hard --preset value,sclip,cliptrase

        binderclip segment photos/ --task "the hidden animal" --coco animals.json

        binderclip segment photos/ --example cup.jpg --mask cup-mask.png --labels cup --coco cups.json

    A folder can be gone on with: images whose label map is there are not done again.
    """
    if list_presets:
        show_presets(json, None if preset is None else preset_names(preset))
        return
    others = {"--background": background, "--preset": preset, "--set": set, "--descriptions": descriptions,
              "--size": size, "--compare": compare, "--task": task, "--ask": ask, "--evaluate": evaluate}  # fmt: skip
    if example or mask:
        _without(others, "--example says what is wanted")
        if not images:
            raise UsageError("give images or folders for --example: segment photos/ --example cup.jpg --mask mask.png")
        named = LABEL if labels is None else one_label(parse_labels(labels))
        shown = ExampleRequest(
            tuple(example or ()), tuple(mask or ()), mask_value, head or HEAD, model or TOWER, device, json
        )
        shown.check()
        code = show_segments(
            shown, find_images(images, without=out or FOLDER), [named], overlay=overlay, label_map=label_map, out=out,
            legend=legend, coco=coco, csv=csv, redo=redo,
        )  # fmt: skip
        raise typer.Exit(code)
    if mask_value is not None:
        raise UsageError("--mask-value is for --example")
    if head is not None:
        _without(others, "--head knows its method")
        if not images:
            raise UsageError("give images or folders for --head: segment photos/ --head FOLDER")
        trained = HeadRequest(head, model or TOWER, device, json)
        trained.check()
        code = show_segments(
            trained, find_images(images, without=out or FOLDER),
            trained.names(None if labels is None else parse_labels(labels)), overlay=overlay, label_map=label_map,
            out=out, legend=legend, coco=coco, csv=csv, redo=redo,
        )  # fmt: skip
        raise typer.Exit(code)
    names = [] if labels is None else parse_labels(labels)
    words = ground_words("none" if background is None and evaluate is not None else background, names)
    # Made scenes are of drawings, which the measured presets were chosen on with the tower alone.
    chosen = model or (DEFAULT_MODEL if evaluate is None else TOWER)
    preset = default_preset(chosen) if preset is None else preset
    settings = SegmentRequest(preset, tuple(set or ()), size, tuple(words), chosen, device, dtype, json, descriptions)
    if evaluate is not None:
        if images or labels:
            raise UsageError("--evaluate measures on its own pictures and classes: leave out images and --labels")
        files = {"--compare": compare, "--out": out, "--csv": csv, "--coco": coco, "--map": label_map,
                 "--overlay": overlay, "--redo": redo or None}  # fmt: skip
        _without(files, "--evaluate writes no pictures or tables")
        measure(settings, evaluate, limit)
        return
    if task is not None:
        if not images:
            raise UsageError("give images or folders for --task, such as: segment photos/ --task 'the hidden animal'")
        maps = {"--background": background, "--descriptions": descriptions, "--size": size, "--overlay": overlay,
                "--map": label_map, "--csv": csv, "--compare": compare}  # fmt: skip
        _without(maps, "--task takes no label map's options")
        vocabulary = () if labels is None else tuple(parse_labels(labels))
        request = TaskRequest(
            task, method, vocabulary, ask, ask_model, segmenter, model or TOWER, device, dtype, json, tuple(set or ())
        )
        found = find_images(images, without=out or TASK_FOLDER)
        raise typer.Exit(segment_task(request, found, out=out, coco=coco, redo=redo))
    if ask is not None or ask_model is not None:
        raise UsageError("--ask and --ask-model are for --task")
    if not images or labels is None:
        raise UsageError("give images and --labels, such as: segment street.jpg --labels car,tree")
    if both := sorted(frozenset(words) & frozenset(names)):
        raise UsageError(f"{', '.join(map(repr, both))} is a label and background as well; leave it out of one of them")
    if compare is not None and (overlay or label_map or out or coco or csv or redo):
        raise UsageError("--compare writes one sheet: leave out --overlay, --map, --out, --coco, --csv and --redo")
    if compare is None and len(preset_names(preset, chosen)) > 1:
        raise UsageError(f"--preset {preset} names several: give --compare SHEET.png or --evaluate, or one preset")
    found = find_images(images, without=out or FOLDER)
    if compare is not None:
        raise typer.Exit(compare_presets(settings, found, names, compare))
    code = show_segments(
        settings, found, names, overlay=overlay, label_map=label_map, out=out, legend=legend, coco=coco,
        csv=csv, redo=redo,
    )  # fmt: skip
    raise typer.Exit(code)


def _without(others: Mapping[str, object], said: str) -> None:
    """Refuse options that have no meaning here."""
    if unused := [option for option, value in others.items() if value is not None]:
        raise UsageError(f"{said}: leave out {', '.join(unused)}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(segment)
