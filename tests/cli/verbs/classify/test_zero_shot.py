"""`classify` with descriptions, pools, contexts and views, and `descriptions`, through the installed command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.everyday_words import EVERYDAY
from binderclip.tasks.verbs.classify.zero_shot import match_boxes, read_image_boxes

Command = Callable[..., Any]
LABELS = "a cat,a cup of coffee,a rocket,a flower"
TRUTH = {"cat": "a cat", "coffee": "a cup of coffee", "rocket": "a rocket", "flower": "a flower"}


def best(document: Any) -> dict[str, str]:
    return {Path(entry["image"]).stem: entry["labels"][0]["label"] for entry in document["images"]}


def probs(document: Any) -> list[dict[str, float]]:
    return [{label["label"]: label["prob"] for label in entry["labels"]} for entry in document["images"]]


def test_without_labels_everyday_words_are_compared(command: Command, pictures: Path) -> None:
    done = command("classify", pictures)
    assert f"{len(EVERYDAY)} everyday words" in done.out
    assert "no labels were given" in done.out + done.err
    document = command("classify", pictures, "--json").json()
    assert document["labels"] == list(EVERYDAY)
    assert best(document) == {name: name for name in TRUTH}
    assert document["request"].get("labels") is None
    assert "everyday" not in command("classify", pictures, "-l", LABELS).out.replace("model everyday", "")


def test_every_pool_and_view_still_knows_the_photographs(command: Command, pictures: Path, tmp_path: Path) -> None:
    words = ("classify", pictures, "-l", LABELS, "--top", 4, "--json")
    plain = command(*words).json()
    assert best(plain) == TRUTH
    (tmp_path / "say.json").write_text(json.dumps({name: [name, f"a photo of {name}"] for name in TRUTH.values()}))
    answers = {}
    for name, more in {
        "max": ("--pool", "max"),
        "auto": ("--pool", "auto", "-t", "imagenet-7"),
        "context": ("--context", "pictures"),
        "tiles": ("--views", "tiles=2"),
        "crops": ("--views", "crops"),
        "described": ("--descriptions", "say.json", "--pool", "auto"),
    }.items():
        found = command(*words, *more).json()
        right = sum(best(found)[image] == label for image, label in TRUTH.items())
        assert right >= 3, (name, best(found))
        for row in probs(found):
            assert sum(row.values()) == pytest.approx(1, abs=1e-4)
        answers[name] = probs(found)
    # Each option does something, and the default is what it was.
    assert all(found != probs(plain) for found in answers.values())
    assert probs(command(*words, "-t", "simple").json()) == probs(plain)
    # Whole-image views and a single sentence a label are the plain classifier.
    words += ("-t", "photo")
    one = command(*words).json()
    for row, other in zip(probs(one), probs(command(*words, "--pool", "auto").json()), strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_every_picture_has_its_row(command: Command, tiny_clip: Callable[[int], Path]) -> None:
    Path("many").mkdir()
    for row in range(25):
        Image.new("RGB", (32, 32), (10 * row, 90, 90)).save(f"many/{row:02}.png")
    done = command("classify", "many", "-l", "cat,dog", "-m", tiny_clip(1))
    assert [f"many/{row:02}.png" in done.out for row in range(25)] == [True] * 25
    assert "25 images, 2 labels" in done.out


def test_known_boxes_change_what_is_seen(command: Command, pictures: Path, tmp_path: Path) -> None:
    both = Image.new("RGB", (900, 400), "white")
    both.paste(Image.open(pictures / "cat.jpg").resize((400, 400)), (0, 0))
    both.paste(Image.open(pictures / "more" / "flower.jpg").resize((400, 400)), (500, 0))
    both.save("left.png")
    both.save("right.png")
    Path("boxes.csv").write_text("image,x0,y0,x1,y1\nleft.png,0,0,400,400\nright.png,500,0,900,400\n")
    done = command("classify", "left.png", "right.png", "-l", LABELS, "--crop-from", "boxes.csv", "--json")
    assert best(done.json()) == {"left": "a cat", "right": "a flower"}
    Path("boxes.json").write_text('{"right.png": [500, 0, 900, 400]}')
    done = command("classify", "left.png", "right.png", "-l", LABELS, "--crop-from", "boxes.json")
    assert "seen whole for want of a box: 1 of 2 images" in done.err
    assert "a flower" in done.out


def test_box_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "boxes"
    path.write_text("photos/a.jpg,1,2,3,4\nb.jpg,0,0,9,9\n")
    boxes = read_image_boxes(path)
    assert boxes == {"photos/a.jpg": (1, 2, 3, 4), "b.jpg": (0, 0, 9, 9)}
    found = match_boxes([Path("/x/photos/a.jpg"), Path("/x/a.jpg"), Path("b.jpg")], boxes)
    assert found == [(1, 2, 3, 4), None, (0, 0, 9, 9)]
    with pytest.raises(UsageError, match=r"names none of the images; it names photos/a\.jpg, b\.jpg"):
        match_boxes([Path("c.jpg")], boxes)
    path.write_text('[{"image": "a.jpg", "box": [1, 2, 3, 4]}]')
    assert read_image_boxes(path) == {"a.jpg": (1, 2, 3, 4)}
    for text, words in [
        ('{"a.jpg": [1, 2, 3]}', "is not a box"),
        ('{"a.jpg": [5, 2, 3, 9]}', "the box 5, 2, 3, 9 is empty"),
        ('[{"name": "a"}]', "holds no boxes by image"),
        ("image,left\na.jpg,3\n", "holds no boxes by image"),
        ("a.jpg,1,2,3,4\na.jpg,1,2,3,4\n", "has two boxes"),
        ("{}", "holds no box"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_image_boxes(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--pool", "median"), "--pool 'median' is unknown: one of mean, max, auto, context"),
        (("--pool", "context"), "--pool context needs --context FILE"),
        (("--context", "moods"), "neither a context set (waterbirds"),
        (("--descriptions", "animals"), "animals has no sentences for 'a cat'"),
        (("--descriptions", "none.json"), "neither a shipped set (animals"),
        (("--descriptions", "animals", "--context", "pictures"), "give one of them"),
        (("--views", "tiles=x"), "--views 'tiles=x' is unknown"),
        (("--views", "tiles=0"), "from 1 to 64, not 0"),
        (("--views", "tiles=99999"), "from 1 to 64, not 99999"),
        (("--views", "tiles=" + "9" * 5000), "is unknown: whole, tiles"),
        (("--views", "tiles=²"), "is unknown: whole, tiles"),
        (("--crop-from", "none.csv"), "there is no file none.csv"),
        (("--crop-from", "none.csv", "--views", "tiles"), "does not go with --views tiles"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(command: Command, pictures: Path, more: tuple, said: str) -> None:
    done = command("classify", pictures, "-l", LABELS, *more, "-m", "no-such-model")
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_descriptions_shows_a_shipped_set_and_writes_files(program: Command, tmp_path: Path) -> None:
    shown = program("descriptions", "digits", COLUMNS="250")
    assert "zero" in shown.out
    assert "two loops, one above the other" in shown.out
    done = program("descriptions", "animals", "--out", "a.json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "20 labels, 6 attributes" in done.err
    written = json.loads((tmp_path / "a.json").read_text())
    assert len(written["classes"]["owl"]) == 6
    refused = program("descriptions", "oak,beech", cwd=tmp_path, BINDERCLIP_LLM_URL="")
    assert (refused.code, "--out FILE is needed" in refused.err) == (2, True)
    words = ("descriptions", "oak,beech", "-o", "t.json")
    refused = program(*words, cwd=tmp_path, BINDERCLIP_LLM_URL="")
    assert (refused.code, "url of a language-model service is needed" in refused.err) == (2, True)
    silent = program(*words, "--url", "http://127.0.0.1:9/v1", "--model", "m", "--timeout", 2, cwd=tmp_path)
    assert (silent.code, "cannot be reached" in silent.err) == (1, True)
    assert not (tmp_path / "t.json").exists()
