"""The tab Search: the index is kept and brought up to date, hits are those of the verb, mistakes are said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import DataError, UsageError


@pytest.fixture
def holiday(photographs: Path, tmp_path: Path) -> Path:
    """A folder that may be written to, with a folder below."""
    folder = tmp_path / "holiday"
    shutil.copytree(photographs, folder)
    (folder / "more").mkdir()
    (folder / "rocket.jpg").rename(folder / "more" / "rocket.jpg")
    return folder


@pytest.mark.parametrize("words", ["a cup of coffee", "-cup of coffee"])
def test_words_and_pictures_find_what_the_verb_finds(
    holiday: Path, run_of: Any, lines: Any, command: Any, words: str
) -> None:
    run = run_of(folders=[holiday])
    from binderclip.workbench.tabs.search import work

    outcome = work(run, None, str(holiday), words, None, 3, False)
    found = json.loads((run.folder / "found.json").read_text())
    assert found["hits"][0]["image"] == "coffee.jpg"
    assert len(found["hits"]) == 3
    assert outcome.values[0].count("<li>") == 3
    index, query = outcome.again.shell.splitlines()
    assert command(*lines.words(index), "--json").json()["unchanged"] == 4
    said = command(*lines.words(query.replace("search query", "search query --json"))).json()
    assert [Path(hit["image"]).name for hit in said["hits"]] == [Path(hit["image"]).name for hit in found["hits"]]
    assert [hit["score"] for hit in said["hits"]] == pytest.approx([hit["score"] for hit in found["hits"]], abs=1e-5)

    like = run_of(folders=[holiday])
    shutil.copy(holiday / "more" / "rocket.jpg", holiday.parent / "dropped.jpg")  # itself would be left out
    work(like, None, str(holiday), "", str(holiday.parent / "dropped.jpg"), 1, False)
    assert json.loads((like.folder / "found.json").read_text())["hits"][0]["image"] == "more/rocket.jpg"


def test_scores_of_another_geometry_are_not_called_cosines(holiday: Path, run_of: Any) -> None:
    from binderclip.models import load
    from binderclip.similarity import SIMILARITIES
    from binderclip.tasks.models import cached_models
    from binderclip.workbench.tabs.search import work

    plain, other = run_of(folders=[holiday]), run_of("bent", folders=[holiday])
    assert "cosine" in work(plain, None, str(holiday), "a cup", None, 2, False).values[0]
    model = load("small")
    model.geometry = SIMILARITIES["lorentz"]()
    other.bench.models.get("image-text", "bent", lambda: model)
    with cached_models(other.bench.models.get):
        bent = work(other, None, str(holiday), "a cup", None, 2, True)
    assert "cosine" not in "".join(bent.values).lower()
    assert "similarity" in bent.values[0]
    assert bent.files[0].read_text().startswith("rank,image,similarity")


def test_only_what_is_new_is_encoded(holiday: Path, run_of: Any) -> None:
    first = run_of(folders=[holiday])
    from binderclip.workbench.tabs.search import work

    first_page = work(first, None, str(holiday), "", None, 3, False)
    assert "4 pictures are indexed: write what you look for" in first_page.said
    shutil.copy(holiday / "cat.jpg", holiday / "again.jpg")
    (holiday / "coffee.jpg").unlink()
    second = work(run_of(folders=[holiday]), None, str(holiday), "", None, 3, False)
    cells = second.values[1].split("<tbody>")[1]
    assert [part.split("<")[0] for part in cells.split('class="number">')[1:]] == ["1", "0", "3", "1", "0"]


def test_uploads_of_one_name_are_all_found(photographs: Path, tmp_path: Path, run_of: Any) -> None:
    run = run_of()
    from binderclip.workbench.tabs.search import work

    files = []
    for number, name in enumerate(("cat", "coffee")):
        place = tmp_path / "uploads" / str(number)
        place.mkdir(parents=True)
        shutil.copy(photographs / f"{name}.jpg", place / "photo.jpg")
        files.append(str(place / "photo.jpg"))
    outcome = work(run, files, None, "a cat", None, 5, False)
    hits = json.loads((run.folder / "found.json").read_text())["hits"]
    assert len({hit["image"] for hit in hits}) == 2
    again = "binderclip search index pictures --model small\nbinderclip search query 'a cat'"
    assert outcome.again.shell.startswith(again)


def test_words_are_never_a_file_of_this_machine(holiday: Path, run_of: Any, lines: Any, command: Any) -> None:
    from binderclip.workbench.tabs.search import work

    words = str(holiday / "more" / "rocket.jpg")
    outcome = work(run_of(folders=[holiday]), None, str(holiday), words, None, 3, False)
    query = outcome.again.shell.splitlines()[1]
    by_words, by_image = (
        command(*lines.words(line), "--json").json() for line in (query, query.replace(" --text", ""))
    )
    rows = outcome.files[0].read_text().splitlines()[1:]
    scores = [float(row.rpartition(",")[2]) for row in rows]
    assert scores == pytest.approx([hit["score"] for hit in by_words["hits"]], abs=1e-5)
    assert scores != pytest.approx([hit["score"] for hit in by_image["hits"]], abs=1e-5)


def test_what_cannot_be_searched_is_said(photographs: Path, tmp_path: Path, run_of: Any) -> None:
    run = run_of(folders=[tmp_path])
    from binderclip.workbench.tabs.search import work

    with pytest.raises(UsageError, match="choose pictures first"):
        work(run, None, "", "a cat", None, 3, False)
    with pytest.raises(UsageError, match="was not opened on"):
        work(run, None, str(photographs), "a cat", None, 3, False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in"):
        work(run, None, str(tmp_path / "empty"), "a cat", None, 3, False)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((photographs / "cat.jpg").read_bytes()[:500])
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        work(run, [str(broken)], None, "a cat", None, 3, False)


def test_from_dropped_pictures_to_what_was_looked_for(view: Any, photographs: Path) -> None:
    panel = view.tab("Search")
    view.drop(panel, *sorted(photographs.iterdir()))
    panel.get_by_label("What you look for, in words").fill("a cup of coffee")
    assert view.run(panel, "Search").startswith("Done in")
    first = panel.locator(".table-box tbody tr").first
    assert "coffee.jpg" in first.inner_text()
    assert view.look("search") == []
    assert view.axe() == []


def test_what_is_typed_is_looked_for_in_the_index_of_the_last_run(holiday: Path, run_of: Any) -> None:
    from binderclip.workbench.tabs.search import INDEXES, _typed, work

    run = run_of("everyday", folders=[holiday])
    assert INDEXES.get(run.folder.parent) is None
    work(run, None, str(holiday), "", None, 3, False)
    index = INDEXES.get(run.folder.parent)
    assert index is not None
    pictures, table = _typed(index, "a cup of coffee", "", 2, run.bench)
    assert "coffee.jpg" in pictures.split("</li>")[0]
    assert pictures.count("<li>") == 2
    there = work(run, None, str(holiday), "a cup of coffee", None, 2, False)
    assert table == there.values[1]
    without = _typed(index, "a cup of coffee", "a cat", 4, run.bench)[1]
    there = work(run, None, str(holiday), "a cup of coffee", None, 4, False, "a cat")
    assert without == there.values[1]
    assert "--minus 'a cat'" in there.again.shell
    (holiday / "cat.jpg").unlink()  # its copy is there, and the index does not know yet
    assert _typed(index, "a cat", "", 4, run.bench)[0].count("<li>") >= 3
