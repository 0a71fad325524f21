"""Segment: labels to coloured pictures, presets side by side."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.events import Event, PartialResult
from binderclip.tasks.verbs.segment.map_files import MappedPicture, write_tables
from binderclip.tasks.verbs.segment.request import NONE, SegmentRequest, default_preset
from binderclip.tasks.verbs.segment.task import segment
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import source
from binderclip.workbench.look import check_size, could_not_be_read, hint, packed, sentences, small_copy, table
from binderclip.workbench.pictures import without_places
from binderclip.workbench.tab import CUT, Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.segment.label_maps import LabelMapReport

SHOWN = 24
"""Pictures on the page; the files are of all."""
SIDE = 560
"""Longer side of what is shown, in pixels."""
MOST_PRESETS = 8
SHADE = """(share) => document.documentElement.style.setProperty('--segment-opacity', share)"""


@dataclass(frozen=True)
class _Segmented:
    """One picture on the page: its small copy, and by preset the file of its colours and the shares of its labels."""

    path: Path
    small: Path
    colours: dict[str, tuple[Path, dict[str, float]]]


def build(bench: Bench) -> None:
    from binderclip.segment import PRESETS

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures()
            labels = control(SegmentRequest, "labels", value="", placeholder="cat, sofa, plant")
            background = control(
                SegmentRequest, "background", value=_usual(), placeholder="wall, floor",
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
                hint("Drop pictures, type labels, press Segment: each appears here in the colours of its labels.")
            )
            results = bench.results()
    opacity.input(None, [opacity], None, js=SHADE, show_progress="hidden", api_visibility="private")
    bench.connect(
        controls, work, [*pictures.inputs, labels, background, presets], [shown], results, also=[labels.submit]
    )


def work(
    run: Run, files: list[str] | None, folder: str | None, labels: str, background: str, presets: list[str]
) -> Outcome:
    """Segment every picture by every preset; those that see the same windows share the passes of the model."""
    chosen = run.pictures(files, folder)
    if not labels.strip():
        raise UsageError("type labels, separated by commas, such as: cat, sofa")
    names = parse_labels(labels.strip(), "Labels", files=False)
    ground = _background(background or "")
    presets = presets or [default_preset(run.model_name)]
    if len(presets) > MOST_PRESETS:
        raise UsageError(f"{len(presets)} presets are too many side by side: {MOST_PRESETS} at most")
    paths, skipped = _of_a_size(chosen)
    page = _Page(run, chosen, presets)
    asked = SegmentRequest(
        images=list(map(str, paths)), labels=names, background=ground, preset=",".join(presets),
        model=run.model_name, device=run.bench.models.device, out=str(run.folder),
    )  # fmt: skip
    result = _segmented(asked, page.hear)
    skipped += [(Path(path).name, reason.replace(path, Path(path).name)) for path, reason in result.skipped]
    status = could_not_be_read(len({name for name, _ in skipped}))
    if result.left_out:
        status = f"{status} {number_of(len(result.left_out), 'preset')} could not be used.".strip()
    rows = [*result.left_out.items(), *skipped]
    left = table(("Left out", "Why"), rows, status.removesuffix(".")) if rows else ""
    # The same without this page is about the pictures by the names that their owner knows.
    made = dict.fromkeys(each.source.name for each in result.pictures)
    again = asked.replaced(images=chosen.names(), preset=",".join(made), out=None)
    # What was left out has a table of its own.
    remarks = sentences([line for line in result.remarks() if not line.startswith("left out ")])
    return Outcome(
        (page.html() + remarks + left,), files=_files(run, chosen, result), again=Equivalent.of(again), said=status
    )


def _files(run: Run, chosen: ChosenPictures, result: LabelMapReport) -> list[Path]:
    """Overlays and label maps of all presets, with tables of each beside them; of many pictures as one archive."""
    maps = [file for each in result.pictures for file in (each.overlay, each.label_map)]
    written: list[Path] = []
    for preset in result.sources:
        own = [each for each in result.pictures if each.source is preset]
        if own:
            named = [replace(each, path=Path(chosen.label(each.path))) for each in own]
            places = own[0].overlay.with_name("masks.json"), own[0].overlay.with_name("areas.csv")
            write_tables(named, *places)
            written += places
    return [*maps, *written] if len(maps) <= 8 else [packed(run.folder, [*maps, *written], "segments.zip")]


@dataclass
class _Page:
    """Pictures and their colours as far as they are there, those of the presets in their order."""

    run: Run
    chosen: ChosenPictures
    presets: list[str]
    rows: dict[Path, _Segmented] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        """Show a picture as soon as it is segmented by a preset."""
        if not isinstance(event, PartialResult):
            self.run.hear(event)
            return
        if isinstance(event.outcome, str):  # which is told with the result
            return
        done: MappedPicture = event.outcome
        folder = self.run.folder / "seen"
        if done.path not in self.rows:
            small = small_copy(done.path, folder, len(self.rows), SIDE)
            assert small is not None
            self.rows[done.path] = _Segmented(Path(self.chosen.label(done.path)), small, {})
        row = self.rows[done.path]
        place = _coloured(done, folder / f"{row.small.stem}-{len(row.colours)}.png")
        row.colours[event.name] = (place, done.shares())
        ordered = [(name, row.colours[name]) for name in self.presets if name in row.colours]
        self.rows[done.path] = replace(row, colours=dict(ordered))
        self.run.show(self.html())

    def html(self) -> str:
        """What is shown."""
        return _shown(list(self.rows.values()))


def _segmented(request: SegmentRequest, hear: Callable[[Event], None]) -> LabelMapReport:
    """The verb's label maps; its errors name no place on the server."""
    try:
        return cast("LabelMapReport", segment.run(request, progress=hear))
    except DataError as error:
        raise DataError(without_places(str(error), request.images)) from error


def _background(text: str) -> list[str] | None:
    """The words for what is none of the labels; None for the usual ones, of which labels may be some."""
    words = text.strip()
    parsed = [] if words in ("", NONE) else parse_labels(words, "What is none of them", files=False)
    return None if parsed == _usual() else parsed


def _of_a_size(chosen: ChosenPictures) -> tuple[list[Path], list[tuple[str, str]]]:
    """The pictures that are not too large, and (name, reason) of the others.

    Raises:
        DataError: all of them are.
    """
    paths, skipped = list[Path](), list[tuple[str, str]]()
    for path in chosen.paths:
        try:
            check_size(path)
            paths.append(path)
        except DataError as error:
            skipped.append((path.name, str(error).replace(str(path), path.name)))
    if not paths:
        raise DataError(f"none of the pictures could be segmented: {skipped[0][1]}")
    return paths, skipped


def _usual() -> list[str]:
    """The background words of the verb, as they stand in the box."""
    from binderclip.segment import GROUND

    return list(GROUND)


def _coloured(picture: MappedPicture, path: Path) -> Path:
    """The colours of the labels alone, small, transparent where there is no label."""
    import numpy as np
    from PIL import Image

    from binderclip.segment.output.palette import colours

    small = Image.fromarray((picture.labels + 1).astype(np.int32))
    small.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    palette = colours(len(picture.classes), background="background" in picture.classes)
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
        for preset, (coloured, shares) in one.colours.items():
            palette = colours(len(shares), background="background" in shares)
            chips = "".join(
                f'<li><i style="background:rgb{colour}"></i>{html.escape(label)} {share:.0%}</li>'
                for share, label, colour in sorted(
                    ((share, label, colour) for (label, share), colour in zip(shares.items(), palette, strict=True)),
                    key=lambda entry: -entry[0],
                )
                if share >= 0.005
            )
            # Who typed a label is told that it was looked for.
            if absent := [label for label, share in shares.items() if not share and label != "background"]:
                chips += f"<li>not found: {html.escape(', '.join(absent))}</li>"
            figures.append(
                f'<figure><div class="stack"><img src="{source(one.small)}" alt="{name}">'
                f'<img class="colours" src="{source(coloured)}" alt="colours of {html.escape(preset)}"></div>'
                f"<figcaption><b>{html.escape(preset)}</b> {name}</figcaption><ul>{chips}</ul></figure>"
            )
        rows.append(f'<div class="figures">{"".join(figures)}</div>')
    more = f"<p>The first {SHOWN} of {len(page)} pictures; the files are of all.</p>" if len(page) > SHOWN else ""
    return f'<div class="segmented">{"".join(rows)}{more}</div>'


TAB = Tab("Segment", "Which label every pixel belongs to; nothing is trained.", build, order=30, group=CUT)
