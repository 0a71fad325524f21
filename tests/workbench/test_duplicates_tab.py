"""The tab Duplicates: the groups of the verb, and the newcomer's way from dropped pictures to a list of what goes."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import UsageError


@pytest.fixture
def album(photographs: Path, tmp_path: Path) -> Path:
    """Four photographs, a small copy of the cat, a crop of it, and a compressed copy of the coffee."""
    folder = tmp_path / "album"
    folder.mkdir()
    for path in photographs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    cat, coffee = Image.open(photographs / "cat.jpg"), Image.open(photographs / "coffee.jpg")
    cat.resize((160, cat.height // 2)).save(folder / "cat small.jpg")
    cat.crop((10, 8, cat.width - 12, cat.height - 10)).save(folder / "cat crop.jpg")
    coffee.save(folder / "coffee sent.jpg", quality=30)
    return folder


def looked_through(run: Any, folder: Path | None, files: list[str] | None = None, **given: Any) -> Any:
    from binderclip.workbench.tabs.duplicates import work

    usual = {"keep": "largest", "near": True, "similarity": 0.8, "crops": 0.6}
    return work(run, files, str(folder) if folder else None, **{**usual, **given})


def test_the_groups_are_those_of_the_verb(album: Path, run_of: Any, lines: Any, command: Any) -> None:
    run = run_of(folders=[album])
    outcome = looked_through(run, album)
    there = command(*lines.words(outcome.again.shell), "--json").json()
    shown = json.loads((run.folder / "groups.json").read_text())
    assert [[each["name"] for each in group["members"]] for group in shown["groups"]] == [
        [Path(each["image"]).name for each in group["images"]] for group in there["groups"]
    ]
    assert [each["name"] for each in shown["groups"][0]["members"]] == ["cat.jpg", "cat crop.jpg", "cat small.jpg"]
    assert [path.name for path in outcome.files] == ["duplicates.csv", "duplicates.json", "remove.txt", "report.html"]


def test_what_stays_is_packed(album: Path, run_of: Any) -> None:
    from binderclip.workbench.tabs.duplicates import LAST

    for given in ((album, None), (None, sorted(map(str, album.iterdir())))):
        run = run_of(folders=[album])
        looked_through(run, *given)
        found = LAST.get(run.folder.parent)
        assert found is not None
        with zipfile.ZipFile(found.pack([0, 1])) as archive:
            names = set(archive.namelist())
            assert archive.read("cat small.jpg") == (album / "cat small.jpg").read_bytes()
        assert names == {path.name for path in album.iterdir()} - {"cat.jpg", "cat crop.jpg"}


def test_a_folder_without_copies_and_no_pictures_are_said(photographs: Path, run_of: Any) -> None:
    run = run_of(folders=[photographs])
    assert "No picture is there twice" in looked_through(run, photographs).values[0]
    with pytest.raises(UsageError, match="choose pictures first"):
        looked_through(run, None)
    with pytest.raises(UsageError, match="similarity"):
        looked_through(run, photographs, similarity=0.1)


def test_a_newcomer_removes_duplicates(view: Any, album: Path) -> None:
    panel, page = view.tab("Duplicates"), view.page
    view.drop(panel, *sorted(album.iterdir()))
    assert view.run(panel, "Look for duplicates").startswith("Done in")
    panel.locator('.duplicate-groups[data-on="ready"]').wait_for()
    for image in panel.locator(".copies img").all():
        image.scroll_into_view_if_needed()
        view.loaded(image)
    assert view.look("duplicates") == []
    assert view.axe() == []
    count = panel.locator('[data-part="count"]')
    assert count.inner_text().startswith("3 pictures would go, ")
    # The small cat is the one to keep, and the two coffees are not the same.
    panel.get_by_role("button", name="Keep cat small.jpg").press("Enter")
    assert count.inner_text().startswith("3 pictures would go, ")
    panel.get_by_role("button", name="Group 2: not the same").press("Enter")
    assert count.inner_text().startswith("2 pictures would go, ")
    with page.expect_download() as download:
        panel.get_by_role("button", name="To remove, as text").click()
    assert Path(download.value.path()).read_text().splitlines() == ["cat.jpg", "cat crop.jpg"]
    with page.expect_download() as download:
        panel.get_by_role("button", name="All, as CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert {row["image"]: row["action"] for row in rows} == {
        "cat.jpg": "remove", "cat crop.jpg": "remove", "cat small.jpg": "keep", "coffee.jpg": "keep",
        "coffee sent.jpg": "keep",
    }  # fmt: skip
    # A picture is enlarged, and the next one by a key.
    panel.get_by_role("button", name="cat.jpg", exact=True).first.click()
    view.loaded(page.locator("dialog.viewer[open] img"))
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() == "cat crop.jpg"
    page.keyboard.press("Escape")
    panel.get_by_role("button", name="Pack the pictures that stay").click()
    with page.expect_download() as download:
        panel.get_by_role("link", name="kept.zip").or_(panel.locator('a[download="kept.zip"]')).first.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert set(archive.namelist()) == {path.name for path in album.iterdir()} - {"cat.jpg", "cat crop.jpg"}
    panel.get_by_role("button", name="As suggested").click()
    assert count.inner_text().startswith("3 pictures would go, ")
