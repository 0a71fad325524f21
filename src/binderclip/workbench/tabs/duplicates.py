"""Duplicates: groups of copies side by side, of each the one to keep, and lists of what would go."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.files import megabytes
from binderclip.tasks import duplicates
from binderclip.tasks.verbs.duplicates.request import DuplicatesRequest
from binderclip.tasks.verbs.duplicates.result import COLUMNS, Duplicates
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import source
from binderclip.workbench.held import HeldByPage
from binderclip.workbench.look import copies_of, could_not_be_read, gathered, hint, left_out, packed, sentences
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

OUT, KEPT = "duplicates", "kept"
MOST_LARGE = 60
"""Pictures that get larger copies: one that no browser shows is enlarged to its small one beyond."""
MOST_PACKED = 2 * 10**9
"""Bytes of a ZIP that a browser is given."""
COLLECT = "() => [document.querySelector('.duplicate-groups')?.duplicateGroups?.removed() ?? '']"
"""Asks the page which pictures would go: places in the list of all members of all groups, as JSON."""
_SHELL = """
<div class="duplicate-groups" data-groups="{address}">
  <div class="groups" data-part="groups"></div>
  <button type="button" class="more" data-act="more" hidden>Show more groups</button>
  <div class="bar" role="group" aria-label="What would go">
    <output data-part="count" aria-live="polite"></output>
    <button type="button" data-act="text">To remove, as text</button>
    <button type="button" data-act="csv">All, as CSV</button>
    <button type="button" data-act="reset">As suggested</button>
  </div>
</div>
"""


@dataclass(frozen=True)
class LastCopies:
    """What a packed folder needs of a run.

    Attributes:
        paths: of all pictures that were looked at. members: of all groups, in the order of the page.
        chosen: what the page calls them. folder: of the run.
    """

    paths: list[Path]
    members: list[Path]
    chosen: ChosenPictures
    folder: Path

    def pack(self, removed: list[int]) -> Path:
        """A ZIP of the pictures without some of the members.

        Raises:
            UsageError: more than a browser should be given.
        """
        gone = {self.members[place] for place in removed}
        kept = [path for path in self.paths if path not in gone]
        size = sum(path.stat().st_size for path in kept)
        if size > MOST_PACKED:
            raise UsageError(
                f"{megabytes(size)} are too much for a ZIP in a browser: take the list, or the line of shell with "
                "--kept-folder, which copies them"
            )
        place = self.folder / KEPT
        if self.chosen.folder is not None:
            return packed(self.chosen.folder, kept, f"{KEPT}.zip", into=self.folder)

        shutil.rmtree(place, ignore_errors=True)
        return packed(place, sorted(gathered(kept, place).iterdir()), f"{KEPT}.zip", into=self.folder)


LAST = HeldByPage[LastCopies]()


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            pictures = bench.pictures("Pictures to look through")
            keep = control(DuplicatesRequest, "keep", info="the date of what is dropped is its EXIF data's, else now")
            controls = bench.controls("Look for duplicates")
            with gr.Accordion("More settings", open=False):
                near = control(DuplicatesRequest, "near", info="resized, compressed, lighter or cropped copies")
                similarity = control(DuplicatesRequest, "similarity", minimum=0.5, maximum=1, step=0.01)
                crops = control(DuplicatesRequest, "crops", minimum=0.5, maximum=1, step=0.05, info="of a cropped copy")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Choose a folder, press Look for duplicates: copies stand side by side, one to keep."))
            pack = gr.Button("Pack the pictures that stay", visible=False)
            archive = gr.File(label="Pictures that stay", interactive=False, visible=False)
            results = bench.results()
    removed = gr.Textbox(visible=False)
    bench.connect(controls, work, [*pictures.inputs, keep, near, similarity, crops], [shown, pack, archive], results)

    async def pack_kept(request: gr.Request, places: str) -> Any:
        held = LAST.get(bench.sessions.results(bench.session(request), str(request.session_hash)))
        if held is None:
            raise gr.Error("look for duplicates first")
        rows = _places(places, len(held.members))
        try:
            return gr.update(value=str(await bench.ask(request, lambda _: held.pack(rows))), visible=True)
        except UsageError as error:
            raise gr.Error(str(error)) from error

    pack.click(pack_kept, [removed], [archive], js=COLLECT, concurrency_limit=None, api_visibility="private")


def _places(given: str, count: int) -> list[int]:
    """Places of members that the page names.

    Raises:
        Error: of Gradio, where it is no list of such places.
    """
    try:
        places = parse_json(given or "[]")
    except ValueError:
        places = None
    if not isinstance(places, list) or not all(isinstance(each, int) and 0 <= each < count for each in places):
        raise gr.Error("the page names pictures that are not in its groups: look for duplicates again")
    return places


def work(
    run: Run, files: list[str] | None, folder: str | None, keep: str, near: bool, similarity: float, crops: float
) -> Outcome:  # fmt: skip
    """Look for copies, and make the pictures that the page shows."""
    chosen = run.pictures(files, folder)
    request = DuplicatesRequest(
        images=chosen.arguments, out=str(run.folder / OUT), keep=keep, near=bool(near), similarity=float(similarity),
        crops=float(crops),
    )  # fmt: skip
    result = duplicates.run(request)
    skipped = {key for key, _ in result.skipped}
    members = [each.path for group in result.groups for each in group.members]
    paths = [path for path in chosen.paths if str(path) not in skipped]
    LAST.hold(run.folder.parent, LastCopies(paths, members, chosen, run.folder))
    shown = _page(run, result, chosen) if result.groups else ""
    # What would go is counted below the groups, as it is chosen.
    lines = result.remarks() if result.groups else result.conclusion()
    return Outcome(
        (sentences(lines) + shown + left_out(result.skipped), gr.update(visible=bool(result.groups)), None),
        files=result.files,
        again=Equivalent.of(request.replaced(images=chosen.names(), out=OUT)),
        said=could_not_be_read(len(result.skipped) + len(chosen.skipped)),
    )


def _page(run: Run, result: Duplicates, chosen: ChosenPictures) -> str:
    """What the script shows, as a file: groups with their pictures and what any two of them have in common."""
    count, number, groups = sum(len(group.members) for group in result.groups), 0, []
    for group in result.groups:
        members = []
        for each in group.members:
            run.progress(number, count, "thumbnail")
            copies = copies_of(each.path, run.folder / "small", number, large=number < MOST_LARGE)
            members.append({
                "name": chosen.label(each.path), "width": each.width, "height": each.height, "bytes": each.bytes,
                "date": each.date.isoformat(" ", "minutes"), "sharpness": round(each.sharpness, 2),
                "small": source(copies.small) if copies else "",
                "large": source(copies.large) if copies and copies.large else "", "key": copies.key if copies else "",
            })  # fmt: skip
            number += 1
        pairs = [[one.first, one.second, round(one.similarity, 4), one.why] for one in group.relations]
        groups.append({"members": members, "pairs": pairs})
    place = run.folder / "groups.json"
    place.write_text(json.dumps({"groups": groups, "columns": COLUMNS}), encoding="utf-8")
    return _SHELL.format(address=html.escape(source(place), quote=True))


TAB = Tab(
    "Duplicates", "Pictures that are there more than once, side by side: choose which one stays.", build, order=22
)
