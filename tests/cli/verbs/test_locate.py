"""`binderclip locate` through the installed program, and its boxes, masks and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.data import scenes, vocabulary
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.boxes import parse_box, read_boxes, read_masks, read_regions

SIZE = (100, 120)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, list[str]]:
    """scene.png with four objects, boxes.csv, labels.png (their label map); the names of the objects."""
    words = vocabulary("scenes15", split="test").only(("cat", "house", "cloud", "flower", "tree"))
    batch = scenes(8, 1, 256, vocabulary=words, objects=4, area=(0.05, 0.12), occlusion=0.05, background="plain")
    pixels = (batch.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    boxes = batch.boxes[0].int().tolist()
    lines = [",".join(map(str, [*box, name])) for box, name in zip(boxes, batch.names[0], strict=True)]
    (tmp_path / "boxes.csv").write_text("x0,y0,x1,y1,name\n" + "\n".join(lines))
    labels = np.zeros((256, 256), dtype=np.uint8)
    for k, mask in enumerate(batch.visible[0].numpy(), start=1):
        labels[mask] = k
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return tmp_path, batch.names[0]


def test_the_program_finds_the_objects_and_draws_the_boxes(program, scene) -> None:
    folder, names = scene
    texts = [f"a {name}" for name in names]
    done = program("locate", "scene.png", *texts, "--boxes", "boxes.csv", "--json", cwd=folder)
    found = done.json()
    assert found["preset"] == "reclip"
    right = sum(row["name"] == name for row, name in zip(found["texts"], names, strict=True))
    assert right >= len(names) - 1
    for row in found["texts"]:
        assert row["box"] == found["regions"][row["region"]]["box"]
        assert sum(row["probs"]) == pytest.approx(1, abs=1e-4)
    before, after = Image.open(folder / "scene.png"), Image.open(folder / "scene-located.png")
    assert after.width == before.width
    assert after.height > before.height  # the legend
    x0, y0, *_ = found["texts"][0]["box"]
    assert after.convert("RGB").getpixel((x0, y0)) != before.convert("RGB").getpixel((x0, y0))


def test_masks_alone_are_regions_and_every_preset_runs(command, scene) -> None:
    folder, names = scene
    image, labels = folder / "scene.png", folder / "labels.png"
    for preset in ("fgvp", "falip", "red-circle", "crop"):
        words = ("locate", image, f"a {names[0]}", "--masks", labels, "--preset", preset, "--json")
        found = command(*words).json()
        assert len(found["regions"]) == len(names)
        assert [region["name"] for region in found["regions"]] == ["1", "2", "3", "4"]
    done = command(
        "locate", image, "a cat", "a cat", "--boxes", folder / "boxes.csv", "--assign", "hungarian",
        "--negatives", "a dog,a car", "--picture", folder / "out.png",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "next best" in done.out
    assert (folder / "out.png").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("scene.png", " ", "--boxes", "boxes.csv"), 2, "TEXTS is empty"),
        (("none.png", "a cat", "--boxes", "boxes.csv"), 2, "there is no file none.png"),
        (("scene.png", "a cat", "--boxes", "none.csv"), 2, "there is no file none.csv"),
        (
            ("scene.png", "a cat", "--boxes", "far.csv"),
            2,
            "far.csv, line 1: box (900.0, 0.0, 950.0, 40.0) lies outside",
        ),
        (("scene.png", "a cat", "--boxes", "scene.png"), 1, "not a text file"),
        (("boxes.csv", "a cat", "--boxes", "boxes.csv"), 1, "boxes.csv"),
        (("scene.png", "a cat", "--boxes", "boxes.csv", "--preset", "fgvp"), 2, "give --masks"),
        (("scene.png", "a cat", "--boxes", "boxes.csv", "--preset", "star"), 2, "one of red-circle, fgvp"),
        (("scene.png", "a cat", "--boxes", "boxes.csv", "--assign", "star"), 2, "--assign 'star' is unknown"),
        (("scene.png", "a cat", "--masks", "small.png"), 2, "small.png is 8 x 8 pixels, the image 256 x 256"),
        (("scene.png", "a cat", "--boxes", "far.csv", "--masks", "labels.png"), 2, "outside"),
        (
            ("scene.png", "a cat", "--boxes", "one.csv", "--masks", "labels.png"),
            2,
            "--masks has 4 regions and --boxes 1",
        ),
    ],
)
def test_mistakes_cost_one_line(command, scene, monkeypatch, words, code: int, said: str) -> None:
    folder, _ = scene
    monkeypatch.chdir(folder)
    (folder / "far.csv").write_text("900,0,950,40\n")
    (folder / "one.csv").write_text("0,0,50,40\n")
    Image.new("L", (8, 8), 1).save(folder / "small.png")
    done = command("locate", *words)
    assert done.code == code
    assert said in done.err
    assert done.err.count("\n") <= 3


@pytest.mark.parametrize(
    "text",
    [
        "1,2,30,40,left\n5,6,70,80",
        "name,x0,y0,x1,y1\nleft,1,2,30,40\n,5,6,70,80\n",
        '[[1, 2, 30, 40], {"box": [5, 6, 70, 80]}]',
        '{"boxes": [{"x0": 1, "y0": 2, "x1": 30, "y1": 40, "name": "left"}, {"box": [5, 6, 70, 80]}]}',
    ],
)
def test_boxes_are_read_in_every_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "boxes").write_text(text)
    found = read_boxes(tmp_path / "boxes", SIZE)
    assert [region.box for region in found] == [(1, 2, 30, 40), (5, 6, 70, 80)]
    assert found[0].name == ("" if text.startswith("[[") else "left")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2,3", "line 1"),
        ("1,2,30,40\n9,9,9,20", "line 2: box .* is empty"),
        ("x0,y0,x1\n1,2,3", "no column y1"),
        ("[[1, 2, 3]]", "box 1"),
        ('[{"name": "left"}]', "box 1"),
        ("[7]", "box 1"),
        ("[1, 2", "damaged JSON"),
        ('{"what": 1}', "no list of boxes"),
        ("[]", "no box in it"),
        ("", "no box in it"),
    ],
)
def test_malformed_boxes_name_the_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "boxes").write_text(text)
    with pytest.raises(DataError, match=said):
        read_boxes(tmp_path / "boxes", SIZE)


def test_a_json_name_that_is_no_text_is_shown_as_one(tmp_path: Path) -> None:
    (tmp_path / "boxes").write_text(json.dumps([{"box": [0, 0, 9, 9], "name": 7}]))
    assert read_boxes(tmp_path / "boxes", SIZE)[0].name == "7"


def test_masks_are_label_maps_or_one_file_each(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[:10], labels[20:30], labels[90:] = 3, 9, 255
    Image.fromarray(labels).save(tmp_path / "map.png")
    found = read_masks([str(tmp_path / "map.png")], SIZE)
    assert [(name, int(mask.sum())) for name, mask in found] == [("3", 1200), ("9", 1200)]
    (tmp_path / "each").mkdir()
    for name, rows in (("a", slice(0, 5)), ("b", slice(5, 20))):
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[rows] = 255
        Image.fromarray(mask).save(tmp_path / "each" / f"{name}.png")
    each = read_masks([str(tmp_path / "each")], SIZE)
    assert [(name, int(mask.sum())) for name, mask in each] == [("a", 600), ("b", 1800)]
    (tmp_path / "boxes").write_text("0,0,9,9,left\n0,9,9,99")
    both = read_regions(str(tmp_path / "boxes"), [str(tmp_path / "each")], SIZE)
    assert [(r.name, r.box, r.mask is not None) for r in both] == [
        ("left", (0, 0, 9, 9), True), ("b", (0, 9, 9, 99), True)
    ]  # fmt: skip
    Image.fromarray(np.zeros(SIZE, dtype=np.uint8)).save(tmp_path / "empty.png")
    with pytest.raises(DataError, match="empty mask"):
        read_masks([str(tmp_path / "empty.png")], SIZE)


def test_one_box_as_an_option() -> None:
    assert parse_box("1, 2,30,40").box == (1, 2, 30, 40)
    for text in ("1,2,3", "a,b,c,d", "5,5,5,9"):
        with pytest.raises(UsageError, match="must be x0,y0,x1,y1"):
            parse_box(text)


def test_regions_are_proposed_where_none_are_given(command, scene) -> None:
    folder, names = scene
    done = command("locate", folder / "scene.png", *[f"a {name}" for name in names], "--json")
    found = done.json()
    assert found["proposals"] == "small-sam"
    assert f"{len(found['regions'])} regions proposed" in done.err
    truth = np.asarray(Image.open(folder / "labels.png"))
    hits = 0
    for k, row in enumerate(found["texts"], start=1):
        x0, y0, x1, y1 = row["box"]
        rows, columns = np.nonzero(truth == k)
        hits += x0 <= columns.mean() <= x1 and y0 <= rows.mean() <= y1
    assert hits >= len(names) // 2
    Image.new("RGB", (64, 64), "white").save("white.png")
    assert "proposes no region" in command("locate", "white.png", "a cat", "--points-per-side", "2").err
