"""Segment: labels to coloured pictures, presets side by side."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.inputs import output_names
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.verbs.segment.presets import (
    SegmentRequest,
    build_segmenters,
    default_preset,
    ground_words,
    preset_names,
)
from binderclip.tasks.verbs.segment.run import Done, save_segmentation, write_areas
from binderclip.workbench.commands import Arguments, Equivalent, model_words, python_load, python_pictures, shell_line
from binderclip.workbench.look import check_size, could_not_be_read, hint, packed, small_copy, source, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.segment import Segmentation

SHOWN = 24
"""Pictures on the page; the files are of all."""
SIDE = 560
"""Longer side of what is shown, in pixels."""
MOST_PRESETS = 8
SHADE = """(share) => document.documentElement.style.setProperty('--segment-opacity', share)"""


@dataclass(frozen=True)
class _Segmented:
    """One picture by every preset: files, and the shares of its labels."""

    path: Path
    small: Path
    colours: dict[str, Path]
    shares: dict[str, dict[str, float]]


def build(bench: Bench) -> None:
    from binderclip.segment import PRESETS

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures()
            labels = gr.Textbox(label="Labels, separated by commas", placeholder="cat, sofa, plant")
            background = gr.Textbox(
                label="What is none of them", value=_usual(), placeholder="wall, floor",
                info="words for the background; may be empty",
            )  # fmt: skip
            presets = gr.Dropdown(
                list(PRESETS), value=[], multiselect=True, label="Presets, side by side", max_choices=MOST_PRESETS,
                info="empty: photograph, which cuts objects out, with everyday; clip_dinoiser with small",
            )  # fmt: skip
            controls = bench.controls("Segment")
        with gr.Column(scale=3, min_width=320):
            opacity = gr.Slider(0, 1, value=0.6, step=0.05, label="Opacity of the colours")
            shown = gr.HTML(
                hint(
                    "Drop a picture, type labels, press Segment: the picture appears here in the colours of its labels."
                )
            )
            results = bench.results()
    opacity.input(None, [opacity], None, js=SHADE, show_progress="hidden", api_visibility="private")
    bench.connect(
        controls, work, [*pictures.inputs, labels, background, presets], [shown], results, also=[labels.submit]
    )


def work(
    run: Run, files: list[str] | None, folder: str | None, labels: str, background: str, presets: list[str]
) -> Outcome:
    """Segment every picture by every preset."""
    from binderclip.segment import coco_document, segment_all

    chosen = run.pictures(files, folder)
    if not labels.strip():
        raise UsageError("type labels, separated by commas, such as: cat, sofa")
    names = parse_labels(labels.strip(), "Labels", files=False)
    background = (background or "").strip()
    words = tuple(
        ground_words(None if background == _usual() else background, names, "What is none of them", files=False)
    )
    if both := sorted(set(words) & set(names)):
        raise UsageError(f"{', '.join(both)}: a label cannot be background as well")
    request = SegmentRequest(
        preset=",".join(presets or [default_preset(run.model_name)]), settings=(), size=None, background=words,
        model=run.model_name, device=run.bench.models.device, dtype="float32", json=False,
    )  # fmt: skip
    chosen_presets = preset_names(request.preset, request.model)
    if len(chosen_presets) > MOST_PRESETS:
        raise UsageError(f"{len(chosen_presets)} presets are too many side by side: {MOST_PRESETS} at most")
    segmenters = build_segmenters(request, names, run.model())
    done: dict[str, list[Done]] = {name: [] for name in segmenters}
    page: list[_Segmented] = []
    skipped: list[tuple[str, str]] = []
    places = output_names([Path(chosen.label(path)) for path in chosen.paths])
    for number, (path, place) in enumerate(zip(chosen.paths, places, strict=True)):
        run.progress(number, len(chosen.paths), "segmenting")
        try:
            check_size(path)
            results = segment_all(list(segmenters.values()), path, names)
        except DataError as error:
            skipped.append((path.name, str(error).replace(str(path), path.name)))
            continue
        small = small_copy(path, run.folder / "seen", number, SIDE)
        assert small is not None
        one = _Segmented(Path(chosen.label(path)), small, {}, {})
        for name, result in zip(segmenters, results, strict=True):
            files_ = _places(run.folder, name if len(segmenters) > 1 else "", place)
            done[name].append(save_segmentation(result, path, *files_))
            one.colours[name] = _coloured(result, run.folder / "seen" / f"{number:05d}-{len(one.colours)}.png")
            one.shares[name] = result.shares()
        page.append(one)
        run.show(_shown(page))
    if not page:
        raise DataError(f"none of the pictures could be segmented: {skipped[0][1]}")
    run.say("writing files")
    written: list[Path] = []
    for name, own in done.items():
        folder_ = _folder(run.folder, name if len(segmenters) > 1 else "")
        named = [Done(Path(chosen.label(d.path)), d.labels, d.classes, d.overlay, d.label_map) for d in own]
        write_json(coco_document([(str(d.path), d.labels) for d in named], own[0].classes), folder_ / "masks.json")
        write_areas(named, folder_ / "areas.csv")
        written += [folder_ / "masks.json", folder_ / "areas.csv"]
    first = [path for own in done.values() for d in own for path in (d.overlay, d.label_map)]
    files_out = [*first, *written] if len(first) <= 8 else [packed(run.folder, [*first, *written], "segments.zip")]
    left = table(("Left out", "Why"), skipped, could_not_be_read(len(skipped)).removesuffix(".")) if skipped else ""
    return Outcome(
        (_shown(page) + left,),
        files=files_out,
        again=_again(run.model_name, run.bench.models.device, chosen, names, words, chosen_presets),
        said=could_not_be_read(len(skipped)),
    )


def _usual() -> str:
    """The background words of the verb, as they stand in the box."""
    from binderclip.segment import GROUND

    return ", ".join(GROUND)


def _folder(folder: Path, preset: str) -> Path:
    place = folder / preset if preset else folder
    place.mkdir(exist_ok=True)
    return place


def _places(folder: Path, preset: str, name: str) -> tuple[Path, Path]:
    place = _folder(folder, preset)
    return place / f"{name}-overlay.png", place / f"{name}-labels.png"


def _coloured(result: Segmentation, path: Path) -> Path:
    """The colours of the labels alone, small, transparent where there is no label."""
    import numpy as np
    from PIL import Image

    from binderclip.segment.output.palette import colours

    labels = result.labels.cpu().numpy()
    small = Image.fromarray((labels + 1).astype(np.int32))
    small.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    palette = colours(len(result.classes), background=result.background)
    rows = [(0, 0, 0, 0), *[(*colour, 255) for colour in palette]]
    Image.fromarray(np.array(rows, dtype=np.uint8)[np.asarray(small)]).save(path)
    return path


def _shown(page: list[_Segmented]) -> str:
    """The pictures under their colours, a row each; the slider sets how much of the colours is seen."""
    from binderclip.segment.output.palette import colours

    rows = []
    for one in page[:SHOWN]:
        name = html.escape(str(one.path), quote=True)
        figures = []
        for preset, coloured in one.colours.items():
            shares = one.shares[preset]
            palette = colours(len(shares), background="background" in shares)
            chips = "".join(
                f'<li><i style="background:rgb{colour}"></i>{html.escape(label)} {share:.0%}</li>'
                for share, label, colour in sorted(
                    ((share, label, colour) for (label, share), colour in zip(shares.items(), palette, strict=True)),
                    key=lambda entry: -entry[0],
                )
                if share >= 0.005
            )
            figures.append(
                f'<figure><div class="stack"><img src="{source(one.small)}" alt="{name}">'
                f'<img class="colours" src="{source(coloured)}" alt="colours of {html.escape(preset)}"></div>'
                f"<figcaption><b>{html.escape(preset)}</b> {name}</figcaption><ul>{chips}</ul></figure>"
            )
        rows.append(f'<div class="figures">{"".join(figures)}</div>')
    more = f"<p>The first {SHOWN} of {len(page)} pictures; the files are of all.</p>" if len(page) > SHOWN else ""
    return f'<div class="segmented">{"".join(rows)}{more}</div>'


def _again(
    model: str, device: str, chosen: ChosenPictures, names: list[str], words: tuple[str, ...], presets: list[str]
) -> Equivalent:
    shell, python = [], []
    given, prelude = python_pictures(chosen)
    one = len(chosen.paths) == 1 and chosen.folder is None
    for preset in presets:
        apart: list[str] | None = None
        if len(presets) > 1:
            stem = f"{chosen.paths[0].stem}-{preset}"
            apart = (
                ["--map", f"{stem}.png", "--overlay", f"{stem}-overlay.png"] if one else ["--out", f"segments-{preset}"]
            )
        shell.append(
            shell_line(
                "binderclip", "segment", Arguments(chosen.names()), "--labels", ",".join(names),
                # Without the option the verb takes the usual words.
                "--background", ",".join(words) or "none", "--preset", preset, apart,
                model_words(model, device),
            )
        )  # fmt: skip
        behind = f", background={words!r}" if words else ""
        python.append(
            f"from binderclip.models import load; from binderclip.segment import Segmenter; {prelude}"
            f"s = Segmenter({python_load(model, device)}, {preset!r}{behind}); "
            f"print([s(p, {names!r}).shares() for p in {given}])"
        )
    return Equivalent("\n".join(python), "\n".join(shell))


TAB = Tab("Segment", "Which label every pixel belongs to; nothing is trained.", build, order=30)
