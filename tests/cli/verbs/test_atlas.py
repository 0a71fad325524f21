"""`binderclip atlas`: files that agree, an index that is used, odd folders, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import cdist

from binderclip.data import load_data

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve digits of two kinds in a folder each, 0 and 1."""
    folder = tmp_path_factory.mktemp("drawn")
    digits = load_data("digits")
    for label in (0, 1):
        (folder / str(label)).mkdir()
        for row in np.flatnonzero(digits.labels == label)[:6]:
            digits[int(row)].image.save(folder / str(label) / f"{row}.png")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_alike_lies_together_and_all_files_agree(command: Command, drawn: Path) -> None:
    done = command("atlas", drawn, "--model", "small", "--clusters", "2", "--words", "a zero,a one")
    table, document = rows_of(Path("map/map.csv")), json.loads(Path("map/map.json").read_text())
    assert [row["image"] for row in table] == [each["image"] for each in document["images"]]
    assert [float(row["x"]) for row in table] == [each["x"] for each in document["images"]]
    assert [int(row["cluster"]) for row in table] == [each["cluster"] for each in document["images"]]
    kinds = np.array([Path(row["image"]).parent.name for row in table])
    places = np.array([[float(row["x"]), float(row["y"])] for row in table])
    nearest = (cdist(places, places) + np.eye(12) * 9).argmin(1)
    assert (kinds == kinds[nearest]).mean() > 0.8
    assert sorted(one["size"] for one in document["clusters"]) == sorted(
        np.bincount([int(row["cluster"]) - 1 for row in table]).tolist()
    )
    assert {row["words"] for row in table} <= {", ".join(one["words"]) for one in document["clusters"]}
    assert all(example.endswith(".png") for one in document["clusters"] for example in one["examples"])
    assert 0.5 < document["trustworthiness"] <= 1
    assert "t-SNE heeds 3.67 neighbours, not 30: at most a third of 12 pictures" in done.err
    assert f"Trustworthiness {document['trustworthiness']:.3f}" in done.out
    sheet = np.asarray(Image.open("map/map.png").convert("RGB"))
    for colour in ((0, 114, 189), (230, 97, 1)):  # frames, and the legend
        assert int((sheet == colour).all(2).sum()) > 500
    # A second run replaces its own files, and gives the same.
    before = Path("map/map.csv").read_bytes()
    command("atlas", drawn, "--model", "small", "--clusters", "2", "--words", "a zero,a one")
    assert Path("map/map.csv").read_bytes() == before


def test_an_index_of_the_folder_is_used_where_its_pictures_are_as_they_were(
    command: Command, drawn: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(drawn / "0", folder)
    alone = command("atlas", folder, "--layout", "pca", "--json").json()
    command("search", "index", folder)
    first = sorted(folder.glob("*.png"))[0]
    Image.open(first).rotate(90).save(first)
    (folder / "new.png").write_bytes(sorted(drawn.glob("1/*.png"))[0].read_bytes())
    both = command("atlas", folder, "--layout", "pca", "--json").json()
    none = command("atlas", folder, "--layout", "pca", "--no-index", "--json").json()
    assert (alone["reused"], both["reused"], none["reused"]) == (0, 5, 0)
    for name in ("x", "y"):
        values = [[each[name] for each in document["images"]] for document in (both, none)]
        assert values[0] == pytest.approx(values[1], abs=1e-3)
    assert both["clusters"] == none["clusters"]
    assert command("atlas", folder, "--model", "small", "--json").json()["reused"] == 0  # an index of another model


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_few_pictures_have_a_map_as_well(command: Command, drawn: Path, count: int) -> None:
    document = command("atlas", *sorted(drawn.rglob("*.png"))[:count], "--model", "small", "--json").json()
    assert len(document["images"]) == count
    assert all(0 <= each["x"] <= 1 and 0 <= each["y"] <= 1 for each in document["images"])
    assert (document["trustworthiness"] is None) == (count < 3)
    assert sum(one["size"] for one in document["clusters"]) == count
    assert Image.open("map/map.png").width >= 600


def test_copies_of_one_picture_are_one_cluster_and_none_covers_another(command: Command, drawn: Path) -> None:
    Path("same").mkdir()
    for number in range(7):
        shutil.copy(sorted(drawn.rglob("*.png"))[0], f"same/{number}.png")
    document = command("atlas", "same", "--model", "small", "--json").json()
    assert {(each["x"], each["y"], each["cluster"]) for each in document["images"]} == {(0.5, 0.5, 1)}
    sheet = np.asarray(Image.open("map/map.png").convert("RGB"))
    assert len({tuple(row) for row in sheet[:, :, 0].tolist()}) > 200  # rows of several pictures, one below the other


def test_what_cannot_be_read_is_left_out_and_named(command: Command, drawn: Path) -> None:
    shutil.copytree(drawn / "0", "some")
    Path("some/broken.png").write_bytes(b"no picture")
    done = command("atlas", "some", "--model", "small", "--clustering", "hdbscan", "--json")
    assert [Path(each["image"]).name for each in done.json()["skipped"]] == ["broken.png"]
    assert len(done.json()["images"]) == 6
    assert "broken.png" in done.err
    shutil.rmtree("map")
    Path("bad").mkdir()
    shutil.copy("some/broken.png", "bad")
    assert "bad/broken.png: not an image" in command("atlas", "bad", "--model", "small").err
    assert not Path("map").exists()


def test_more_pictures_than_the_limit_are_thinned_out_evenly(command: Command, drawn: Path) -> None:
    done = command("atlas", drawn, "--model", "small", "--limit", "6", "--shown", "4")
    kinds = [Path(row["image"]).parent.name for row in rows_of(Path("map/map.csv"))]
    assert kinds == ["0"] * 3 + ["1"] * 3
    assert "6 pictures beyond --limit 6 left out" in done.out + done.err
    assert "(4 of 6 pictures)" in done.out + done.err


def test_what_is_wrong_is_said_before_any_work(command: Command, drawn: Path) -> None:
    Path("map").mkdir()
    Path("map/map.csv").write_text("mine,all\n1,2\n")
    for words, text in (
        ((drawn,), "map.csv is there already"),
        ((drawn, "--clusters", "0"), "--clusters"),
        ((drawn, "--clusters", "3", "--clustering", "hdbscan"), "--clusters is of k-means"),
        ((drawn, "--layout", "circle"), "--layout 'circle' is unknown: one of tsne, pca"),
        ((drawn, "--words", "a,,b"), "has an empty label"),
        (("nowhere",), "there is no file or folder nowhere"),
    ):
        assert text in command("atlas", *words).err, words
    assert Path("map/map.csv").read_text() == "mine,all\n1,2\n"
