"""`binderclip search`: what is said of the model, by both of its commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_a_query_says_of_the_model_what_the_index_said(command: Command, pictures: Path) -> None:
    Path("photos").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures / f"{name}.jpg", "photos")
    index = command("search", "index", "photos", "--model", "small")
    query = command("search", "query", "a cat", "--index", "photos")
    said = [[line for line in done.err.splitlines() if "weak on photographs" in line] for done in (index, query)]
    assert said[0] == said[1]
    assert len(said[1]) == 1
    assert "weak on photographs" not in command("search", "query", "a cat", "--index", "photos", "--json").err
    assert not [line for line in (index.err + query.err).splitlines() if "scores of pictures" in line]


def test_both_commands_say_what_corrects_the_scores(command: Command, pictures: Path) -> None:
    Path("photos").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures / f"{name}.jpg", "photos")
    index = command("search", "index", "photos")
    query = command("search", "query", "a cat", "--index", "photos")
    lines = [[line for line in done.err.splitlines() if "scores of pictures" in line] for done in (index, query)]
    assert lines[0] == lines[1]
    assert "cosines less what each side has in common with everything (CSLS" in lines[0][0]
    # A picture that asks is compared by cosines.
    example = command("search", "query", "photos/cat.jpg", "--index", "photos")
    assert "scores of pictures" not in example.err


def test_a_query_makes_the_index_of_a_folder_that_has_none(command: Command, pictures: Path) -> None:
    Path("photos").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures / f"{name}.jpg", "photos")
    first = command("search", "query", "a cup of coffee", "--index", "photos", "--json")
    assert "photos has no index yet: it is made now, in photos/.binderclip" in first.err
    assert [Path(hit["image"]).name for hit in first.json()["hits"]] == ["coffee.jpg", "cat.jpg"]
    second = command("search", "query", "a cup of coffee", "--index", "photos", "--json")
    assert "no index" not in second.err
    assert second.json()["hits"] == first.json()["hits"]


def test_no_index_is_made_of_what_nobody_named(command: Command, pictures: Path) -> None:
    shutil.copy(pictures / "cat.jpg", "cat.jpg")
    here = command("search", "query", "a cat")
    assert here.code == 1
    assert "error: . is not empty and not a binderclip index" in here.err
    Path("empty").mkdir()
    for name in ("empty", "none"):
        done = command("search", "query", "a cat", "--index", name)
        assert done.code == 2
        assert f"error: there is no index at {name}; make one with" in done.err
    assert not Path(".binderclip").exists()
    assert not list(Path("empty").iterdir())
