"""The tab Map: the map of the verb; on the canvas everything can be seen, moved, drawn around and taken along."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import UsageError


def mapped(run: Any, folder: Path | None, files: list[str] | None = None, **given: Any) -> Any:
    from binderclip.workbench.tabs.atlas import work

    values = {"words": "", "clustering": "k-means", "clusters": "", "least": 5, "layout": "pca", "perplexity": 30}
    return work(run, files, str(folder) if folder else None, **{**values, **given})


def test_the_map_is_that_of_the_verb(photographs: Path, run_of: Any, lines: Any, command: Any) -> None:
    run = run_of(folders=[photographs])
    outcome = mapped(run, photographs, clusters="2", words="a cat, a cup, a person")
    there = command(*lines.words(outcome.again.shell), "--json").json()
    points = json.loads((run.folder / "points.json").read_text())
    assert [[point[3], point[0], point[1], point[2]] for point in points["points"]] == [
        [
            Path(each["image"]).name,
            pytest.approx(each["x"], abs=1e-4),
            pytest.approx(each["y"], abs=1e-4),
            each["cluster"],
        ]
        for each in there["images"]
    ]
    assert [one["words"] for one in points["clusters"]] == [", ".join(one["words"]) for one in there["clusters"]]
    assert [path.name for path in outcome.files] == ["map.csv", "map.json", "map.png"]
    # Each thumbnail is the picture's own.
    sprite = Image.open(run.folder / "thumbnails.jpg")
    for number, point in enumerate(points["points"]):
        left, top = number % points["columns"] * points["tile"], number // points["columns"] * points["tile"]
        seen = sprite.crop((left + 40, top + 40, left + 88, top + 88)).resize((4, 4), Image.Resampling.BOX)
        own = Image.open(photographs / point[3]).convert("RGB")
        own.thumbnail((points["tile"],) * 2)
        x, y = own.width // 2, own.height // 2
        middle = own.crop((x - 24, y - 24, x + 24, y + 24)).resize((4, 4), Image.Resampling.BOX)
        assert np.abs(np.asarray(seen, float) - np.asarray(middle, float)).mean() < 12, point[3]


def test_words_colour_by_what_the_model_says_of_them(photographs: Path, run_of: Any) -> None:
    from binderclip.workbench.tabs.atlas import MAPS

    run = run_of("everyday", folders=[photographs])
    mapped(run, photographs)
    names = [point[3] for point in json.loads((run.folder / "points.json").read_text())["points"]]
    held = MAPS.get(run.folder.parent)
    assert held is not None
    assert names[int(np.argmax(held.scores("a cup of coffee")))] == "coffee.jpg"


def test_what_cannot_be_mapped_is_said(photographs: Path, run_of: Any) -> None:
    run = run_of(folders=[photographs])
    for given, text in (
        ({"folder": None}, "choose pictures first"),
        ({"folder": photographs, "clusters": "none"}, "--clusters"),
        ({"folder": photographs, "words": "@/etc/passwd"}, "no file is read here"),
    ):
        with pytest.raises(UsageError, match=text):
            mapped(run, **given)


def test_a_folder_is_seen_drawn_around_and_taken_along(view: Any, photographs: Path) -> None:
    panel, page = view.tab("Map"), view.page
    view.drop(panel, *sorted(photographs.iterdir()))
    assert view.run(panel, "Map").startswith("Done in")
    ready = panel.locator('.picture-map[data-on="ready"]')
    ready.wait_for()
    assert view.look("map") == []
    assert view.axe() == []
    # All of it by the keyboard: a cluster of the table, its names, a picture, the next one.
    count = panel.locator('[data-part="count"]')
    assert count.inner_text().startswith("Nothing is selected")
    panel.get_by_role("button", name="Select cluster 1").press("Enter")
    first = count.inner_text()
    assert first.endswith(" selected")
    listed = panel.locator("ul.selection button")
    listed.first.press("Enter")
    view.loaded(page.locator('dialog[open] [data-part="picture"]'))
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    # By the pointer: around everything.
    panel.get_by_role("button", name="Draw around").click()
    canvas = panel.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99), (0.01, 0.02)]
    spots = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()
    assert count.inner_text() == "4 selected"
    with page.expect_download() as download:
        panel.get_by_role("button", name="As CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert sorted(row["image"] for row in rows) == ["astronaut.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg"]
    with page.expect_download() as download:
        panel.get_by_role("button", name="Names as text").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 4
    # Words colour it as they are typed.
    panel.get_by_label("Colour by words").press_sequentially("a cup of coffee", delay=5)
    page.wait_for_function(
        "() => document.querySelector('.picture-map .legend').textContent.includes('\"a cup of coffee\"')"
    )
    scores = page.evaluate("() => document.querySelector('.picture-map').pictureMap.scores")
    names = page.evaluate("() => document.querySelector('.picture-map').pictureMap.data.points.map(point => point[3])")
    assert names[int(np.argmax(scores))] == "coffee.jpg"
