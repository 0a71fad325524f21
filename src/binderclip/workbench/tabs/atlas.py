"""Map: a folder's pictures in the plane, to move, zoom and draw around; and a table of its clusters."""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.errors import BinderclipError
from binderclip.tasks import atlas
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.models import encoder
from binderclip.tasks.verbs.atlas.request import AtlasRequest
from binderclip.tasks.verbs.atlas.sheet import cluster_colours
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import source
from binderclip.workbench.held import HeldByPage
from binderclip.workbench.look import could_not_be_read, hint, left_out, sentences, small_copy
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    import numpy as np

    from binderclip.models import ImageTextModel
    from binderclip.tasks.verbs.atlas.result import Atlas

OUT = "map"
COPY = 400
"""Longer side of the copies that are enlarged, in pixels."""
TILES = ((300, 128), (1500, 96), (20_000, 64))
"""Up to so many pictures a thumbnail has so many pixels a side: all are in one picture, which a browser has to hold."""
_SHELL = """
<div class="picture-map" data-map="{address}">
  <div class="bar">
    <span>Drag to move, Ctrl and wheel to zoom, Shift and drag to select; a click enlarges.</span>
    <button type="button" data-act="lasso" aria-pressed="false">Draw around</button>
    <button type="button" data-act="in" aria-label="Zoom in">+</button>
    <button type="button" data-act="out" aria-label="Zoom out">&minus;</button>
    <button type="button" data-act="all">Whole map</button>
  </div>
  <div class="frame">
    <canvas data-part="canvas" tabindex="0" role="application"
      aria-label="Map of {count}; arrow keys move it, plus and minus zoom. The table below has all of it."></canvas>
    <div class="tip" data-part="tip" hidden></div>
  </div>
  <p class="legend" data-part="legend" aria-live="polite"></p>
  <div class="bar">
    <span data-part="count" aria-live="polite"></span>
    <button type="button" data-act="text">Names as text</button>
    <button type="button" data-act="csv">As CSV</button>
    <button type="button" data-act="none">Select none</button>
  </div>
  <ul class="selection" data-part="selection" aria-label="Selected pictures" tabindex="0"></ul>
  {table}
  <dialog data-part="dialog" aria-label="Picture">
    <img data-part="picture" src="data:," alt="">
    <p data-part="caption"></p>
    <div class="bar"><button type="button" data-act="previous">Previous</button>
      <button type="button" data-act="next">Next</button>
      <button type="button" data-act="close">Close</button></div>
  </dialog>
</div>
"""


@dataclass(frozen=True)
class MappedPictures:
    """What colours by words need of a map.

    Attributes:
        model: that made the embeddings. embeddings: (n, E) unit vectors of its pictures.
    """

    model: ImageTextModel
    embeddings: np.ndarray

    def scores(self, text: str) -> list[float]:
        """Similarities of the pictures with a text."""
        import torch

        with torch.no_grad():
            rows = torch.from_numpy(self.embeddings).to(self.model.device)
            text_rows = self.model.encode_text([text])
            return [round(float(score), 4) for score in self.model.similarity(rows, text_rows)[:, 0]]


MAPS = HeldByPage[MappedPictures]()


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            pictures = bench.pictures("Pictures to map")
            controls = bench.controls("Map")
            colour = gr.Textbox(label="Colour by words", placeholder="a dog", info="as you type, once there is a map")
            with gr.Accordion("More settings", open=False):
                words = gr.Textbox(
                    label="Words for the clusters", placeholder="beach, food, people",
                    info="separated by commas; empty: everyday words",
                )  # fmt: skip
                settings = [
                    control(AtlasRequest, "clustering"),
                    control(AtlasRequest, "clusters", info="of k-means; empty: as many as lie apart best"),
                    control(AtlasRequest, "least", maximum=100, info="of hdbscan"),
                    control(AtlasRequest, "layout"),
                    control(AtlasRequest, "perplexity", maximum=100),
                ]
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Choose a folder, press Map: pictures that are alike lie side by side."))
            scores = gr.HTML(elem_classes="scores")
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, words, *settings], [shown, scores], results)

    async def coloured(request: gr.Request, typed: str | None) -> Any:
        page = bench.sessions.results(bench.session(request), str(request.session_hash))

        text = (typed or "").strip()

        def work(_: Any) -> list[float] | None:
            mapped = MAPS.get(page)
            return None if mapped is None else mapped.scores(text) if text else []

        try:
            values = await bench.ask(request, work)
        except BinderclipError:
            return gr.skip()  # the page is closed
        return gr.skip() if values is None else _scores_html(values, text)

    colour.input(
        coloured, [colour], [scores], show_progress="hidden", api_visibility="private", trigger_mode="always_last",
        concurrency_limit=None,
    )  # fmt: skip


def work(
    run: Run, files: list[str] | None, folder: str | None, words: str, clustering: str, clusters: str | float | None,
    least: float, layout: str, perplexity: float,
) -> Outcome:  # fmt: skip
    """Map the pictures, and make the thumbnails that the page shows."""
    chosen = run.pictures(files, folder)
    given: dict[str, Any] = {"clustering": clustering, "least": int(least), "layout": layout, "perplexity": perplexity}
    if str(clusters or "").strip():
        given["clusters"] = str(clusters).strip()
    if (words or "").strip():
        given["words"] = parse_labels(str(words).strip(), "Words for the clusters", files=False)
    place: dict[str, Any] = {"model": run.model_name, "device": run.bench.models.device}
    request = AtlasRequest(images=chosen.arguments, out=str(run.folder / OUT), **given, **place)
    result = atlas.run(request)
    model = encoder(run.model_name, device=run.bench.models.device)
    MAPS.hold(run.folder.parent, MappedPictures(model, result.embeddings))
    shown = _page(run, result, chosen)
    about = sentences([*result.conclusion(), *result.remarks()], type(result.request)) + left_out(result.skipped)
    return Outcome(
        (shown + about, ""),
        files=result.files,
        again=Equivalent.of(request.replaced(images=chosen.names(), out=OUT)),
        said=could_not_be_read(len(result.skipped) + len(chosen.skipped)),
    )


def _page(run: Run, result: Atlas, chosen: ChosenPictures) -> str:
    """The canvas, and files of what it shows: the points, one picture of all thumbnails, larger copies."""
    from PIL import Image

    from binderclip.data.images import contained, open_image

    count = len(result.paths)
    tile = next(side for most, side in TILES if count <= most)
    columns = math.ceil(math.sqrt(count))
    sprite = Image.new("RGB", (columns * tile, math.ceil(count / columns) * tile), (238, 241, 245))
    for number, path in enumerate(result.paths):
        run.progress(number, count, "thumbnail")
        copy = small_copy(path, run.folder / "copies", number, side=COPY)
        if copy is None:
            continue
        small = contained(open_image(copy).convert("RGB"), tile)
        left, top = number % columns * tile, number // columns * tile
        sprite.paste(small, (left + (tile - small.width) // 2, top + (tile - small.height) // 2))
    sprite.save(run.folder / "thumbnails.jpg", quality=85)
    colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in cluster_colours(len(result.clusters))]
    points = [
        [float(x), float(y), int(label) + 1, chosen.label(path)]
        for (x, y), label, path in zip(result.positions, result.labels, result.paths, strict=True)
    ]
    clusters = [{"words": ", ".join(one.words), "colour": c} for one, c in zip(result.clusters, colours, strict=True)]
    document = {
        "points": points, "clusters": clusters, "tile": tile, "columns": columns,
        "sprite": source(run.folder / "thumbnails.jpg"), "copies": source(run.folder / "copies"),
    }  # fmt: skip
    (run.folder / "points.json").write_text(json.dumps(document), encoding="utf-8")
    return _SHELL.format(
        address=source(run.folder / "points.json"), count=f"{count} pictures", table=_clusters(result, colours, chosen)
    )


def _clusters(result: Atlas, colours: list[str], chosen: ChosenPictures) -> str:
    """The table of clusters, with a button that selects each: what is on the canvas for who does not see it."""
    rows = ""
    for one, colour in zip(result.clusters, colours, strict=True):
        swatch = f'<i class="swatch" style="background:{colour}"></i>{one.number}'
        words = ", ".join(one.words) or "no word fits it more"
        examples = ", ".join(chosen.label(Path(path)) for path in one.examples)
        rows += _row(swatch, words, one.size, examples, one.number, f"Select cluster {one.number}")
    if result.alone:
        rows += _row("", "in no cluster", result.alone, "", 0, "Select what is in no cluster")
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Cluster", "Words", "Pictures", "Examples", "Pick"))
    name = html.escape(result.title)
    return (
        f'<div class="table-box" tabindex="0" role="region" aria-label="Clusters"><table><caption><span>{name}</span>'
        f"</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(swatch: str, words: str, count: int, examples: str, number: int, label: str) -> str:
    select = f'<button type="button" data-cluster="{number}" aria-label="{label}">Select</button>'
    return (
        f'<tr><td class="number">{swatch}</td><td>{html.escape(words)}</td><td class="number">{count}</td>'
        f"<td>{html.escape(examples)}</td><td>{select}</td></tr>"
    )


def _scores_html(values: list[float], text: str) -> str:
    scores, words = html.escape(json.dumps(values), quote=True), html.escape(text, quote=True)
    return f'<div class="map-scores" hidden data-scores="{scores}" data-text="{words}"></div>'


TAB = Tab(
    "Map", "All pictures of a folder at once: what is alike lies together, in clusters with names.", build, order=21
)
