"""`binderclip click` with a tiny promptable model of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from binderclip.evaluate.cards.standins import held_out_scenes
from binderclip.segment import InteractiveSession, Prompts, load_promptable
from binderclip.segment.promptable import PromptModel, PromptNetwork

Command = Callable[..., Any]
SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("clicker") / "tiny"
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval().save(place)
    return place


def test_a_mask_is_that_of_the_model_in_the_pictures_own_pixels(command: Command, pictures: Path, folder: Path) -> None:
    picture = pictures / "cat.jpg"
    words = ("click", picture, "--point", "30,20", "--not", "5,5", "--box", "10,4,60,50", "-m", folder)
    found = command(*words, "--json").json()
    mask = np.asarray(Image.open(found["mask"]))
    with Image.open(picture) as image:
        assert mask.shape == (image.height, image.width)
        segmenter = load_promptable(folder)
        prompts = Prompts.of(points=[(30, 20), (5, 5)], labels=[1, 0], box=(10, 4, 60, 50))
        with torch.no_grad():
            state = segmenter.encode(image.convert("RGB"))
            want = segmenter.predict(state, prompts, multimask=False).masks()[0]
        assert np.array_equal(mask == 255, want.numpy())
        with Image.open(found["overlay"]) as overlay:
            assert overlay.size == image.size
    assert found["pixels"] == int((mask == 255).sum())
    if found["bounds"]:
        rows, columns = (mask == 255).nonzero()
        assert found["bounds"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert "predicted IoU" in command(*words).out


def test_bad_prompts_are_named(command: Command, pictures: Path, folder: Path) -> None:
    picture = pictures / "cat.jpg"
    for options, said in [
        ((), "give --point x,y or --box"),
        (("--point", "a,b"), "write two numbers, such as --point 120,80"),
        (("--point", "90000,1"), "point 90000,1 is outside the picture"),
        (("--box", "1,2,3"), "--box"),
        (("--point", "3,3", "-m", "large-sam"), "there is no promptable segmenter or folder 'large-sam'"),
        (("--point", "3,3", "--out", "x.jpg"), "a mask is saved as PNG"),
    ]:
        done = command("click", picture, *(() if "-m" in options else ("-m", folder)), *options)
        assert done.code == 2
        assert said in done.err


def test_prompts_end_at_the_border(command: Command, folder: Path) -> None:
    Image.new("RGB", (64, 40), "teal").save("plain.png")
    for options, said in [
        (("--box", "9000,9000,9100,9100"), "--box: box (9000.0, 9000.0, 9100.0, 9100.0) lies outside the image of 64"),
        (("--box", "64,0,70,10"), "lies outside the image of 64 x 40 pixels"),
        (("--box", "0,-9,10,0"), "lies outside the image of 64 x 40 pixels"),
        (("--point", "64,10"), "point 64,10 is outside the picture of 64 x 40 pixels"),
        (("--point", "10,40"), "point 10,40 is outside the picture"),
        (("--point", "10,10", "--not", "10,40"), "point 10,40 is outside the picture"),
        (("--point", "-0.5,10"), "point -0.5,10 is outside the picture"),
        (("--point", "nan,10"), "--point 'nan,10': write two numbers"),
    ]:
        done = command("click", "plain.png", "-m", folder, *options)
        assert (done.code, said in done.err) == (2, True), done.err
        assert not Path("plain-mask.png").exists()
    for options in (("--point", "63.9,39.9"), ("--point", "0,0"), ("--box", "60,30,64,40"), ("--box", "-5,-5,70,50")):
        assert command("click", "plain.png", "-m", folder, *options).code == 0


def test_the_bundled_model_cuts_a_drawing_out_by_point_and_by_box(program: Command, tmp_path: Path) -> None:
    """Through the installed command, with nothing named but the picture: most of the drawing and little else."""
    made = held_out_scenes(8, 1, "painted backgrounds", size=256)
    to_pil_image(made.images[0]).save(tmp_path / "scene.png")
    truth = made.visible[0, 0].numpy()
    rows, columns = truth.nonzero()
    middle = len(rows) // 2
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    for words in (
        ("--point", f"{columns[middle] + 0.5},{rows[middle] + 0.5}"),
        ("--box", ",".join(map(str, box))),
    ):
        found = program("click", "scene.png", *words, "--json", cwd=tmp_path).json()
        assert found["model"] == "small-sam"
        mask = np.asarray(Image.open(tmp_path / found["mask"])) == 255
        assert mask.shape == truth.shape
        assert (mask & truth).sum() / (mask | truth).sum() > 0.5
        assert (tmp_path / found["overlay"]).is_file()


def test_a_second_click_keeps_the_first_mask(command: Command, pictures: Path, folder: Path) -> None:
    words = ("click", pictures / "cat.jpg", "--model", folder, "--json")
    first = command(*words, "--point", "10,10").json()
    kept = Path(first["mask"]).read_bytes()
    second = command(*words, "--box", "20,20,300,200").json()
    assert (first["mask"], second["mask"]) == ("cat-mask.png", "cat-mask-2.png")
    assert (first["overlay"], second["overlay"]) == ("cat-clicked.png", "cat-clicked-2.png")
    assert Path(first["mask"]).read_bytes() == kept
    # Mask and overlay go by one number, also where only one of the names is taken.
    Path("cat-clicked-3.png").write_bytes(b"mine")
    assert command(*words, "--point", "10,10").json()["mask"] == "cat-mask-4.png"
    assert Path("cat-clicked-3.png").read_bytes() == b"mine"
    # A name that is given is meant.
    again = command(*words, "--point", "20,20", "--out", "cat-mask.png").json()
    assert again["mask"] == "cat-mask.png"


def test_a_session_is_gone_on_with(command: Command, folder: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)).save("noise.png")
    words = ("click", "noise.png", "-m", folder, "--session", "s.json")
    command(*words, "--point", "20,20")
    second = command(*words, "--not", "50,10", "--scribble", "5,5 20,5", "--json").json()
    assert second["steps"] == 3
    assert second["points"][0] == [20, 20]

    session = InteractiveSession(load_promptable(folder), "noise.png")
    session.click(20, 20)
    first = session.mask
    session.click(50, 10, positive=False)
    session.scribble([(5, 5), (20, 5)])
    assert np.array_equal(np.asarray(Image.open(second["mask"])) > 0, session.mask.numpy())

    back = command(*words, "--undo", "2", "--json").json()
    assert back["steps"] == 1
    assert np.array_equal(np.asarray(Image.open(back["mask"])) > 0, first.numpy())
    again = command(*words, "--redo", "2", "--json").json()
    assert again["pixels"] == second["pixels"]
    assert "session s.json, 3 steps" in command(*words).out


def test_a_session_is_not_harmed_by_mistakes(command: Command, folder: Path) -> None:
    Image.new("RGB", (64, 40), "teal").save("plain.png")
    Image.new("RGB", (40, 64), "teal").save("turned.png")
    words = ("click", "plain.png", "-m", folder)
    for options, said in [
        (("--session", "s.json"), "there is no session s.json yet"),
        (("--undo", "1", "--point", "3,3"), "go with --session"),
        (("--session", "none/s.json", "--point", "3,3"), "there is no folder"),
    ]:
        done = command(*words, *options)
        assert done.code == 2
        assert said in done.err
    command(*words, "--session", "s.json", "--point", "20,20")
    Image.new("RGB", (64, 40), "olive").save("other.png")
    done = command("click", "other.png", "-m", folder, "--session", "s.json", "--point", "3,3")
    assert done.code == 2
    assert "the clicks of s.json are on plain.png, not on other.png" in done.err
    Path("moved.png").write_bytes(Path("plain.png").read_bytes())
    assert command("click", "moved.png", "-m", folder, "--session", "s.json").code == 0
    before = Path("s.json").read_bytes()
    for options, said in [
        (("--undo", "2"), "--undo 2: the session s.json has 1 such steps"),
        (("--redo", "1"), "--redo 1"),
        (("--scribble", "3,3 90,3"), "outside the picture"),
        (("--scribble", "3;3"), "write two numbers"),
    ]:
        assert said in command(*words, "--session", "s.json", *options).err
    assert (
        "64 x 40 pixels, this one has 40 x 64" in command("click", "turned.png", *words[2:], "--session", "s.json").err
    )
    assert Path("s.json").read_bytes() == before


def test_a_session_with_places_that_are_none_is_refused(command: Command, pictures: Path, folder: Path) -> None:
    picture = pictures / "cat.jpg"
    words = ("click", picture, "--session", "s.json", "-m", folder)
    assert command(*words, "--box", "10,10,60,50").code == 0
    whole = Path("s.json").read_text()
    for old, new in (("60.0", "1e400"), ("60.0", "Infinity"), ("10.0", "NaN"), ("60.0", "9" * 400)):
        Path("s.json").write_text(whole.replace(old, new))
        done = command(*words, "--point", "20,20")
        assert done.code in (1, 2), done.out
        assert done.err.startswith("error: ")
        assert Path("s.json").read_text() == whole.replace(old, new)


def test_neither_the_picture_nor_a_device_nor_another_file_is_replaced(
    command: Command, pictures: Path, folder: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "cat.png"
    Image.open(pictures / "cat.jpg").save(picture)
    before = picture.read_bytes()
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    words = ("click", picture, "--point", "20,20", "-m", folder)
    for options, said in [
        (("--out", "cat.png"), "is read here"),
        (("--overlay", picture), "is read here"),
        (("--session", picture), "is read here"),
        (("--session", "/dev/null"), "it is a device"),
        (("--session", "mine.json"), "binderclip did not write it"),
    ]:
        done = command(*words, *options)
        assert (done.code, said in done.err) == (2, True), done.err
        done = command(*words, *options, "--overwrite")
        assert done.code in (1, 2), done.out
    assert picture.read_bytes() == before
    assert (tmp_path / "mine.json").read_text() == '{"mine": 1}'


def objects_of(path: Path) -> dict[str, Any]:
    """A session of two pictures, as the workbench keeps it."""
    steps = [
        {"kind": "point", "object": 1, "at": [20, 12], "inside": True},
        {"kind": "point", "object": 1, "at": [60, 4], "inside": False},
        {"kind": "name", "object": 1, "name": "a cup/mug"},
        {"kind": "box", "object": 2, "box": [5, 5, 50, 38]},
        {"kind": "box", "object": 3, "box": [5, 5, 50, 38]},
        {"kind": "delete", "object": 3},
    ]
    document = {
        "format": "binderclip objects 1",
        "model": "",
        "pictures": [
            {"image": "one.png", "size": [40, 64], "steps": steps, "undone": [], "hidden": [2], "done": True},
            {"image": "sub/two.png", "size": [40, 64], "steps": steps[:1], "undone": steps[1:2]},
        ],
    }
    path.write_text(json.dumps(document))
    return document


@pytest.fixture
def clicked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures of noise in a folder, and a session of them."""
    rng = np.random.default_rng(0)
    for name in ("one.png", "sub/two.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    objects_of(tmp_path / "clicks.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promptable model of random weights finds little: here a pixel is its where its logit is above the median."""
    predict = PromptModel.predict

    def changed(self: Any, *given: Any, **more: Any) -> Any:
        masks = predict(self, *given, **more)
        return replace(masks, logits=masks.logits - masks.logits.flatten(2).median(-1).values[..., None, None])

    monkeypatch.setattr(PromptModel, "predict", changed)


def test_all_objects_of_a_session_are_cut_out_again(
    command: Command, clicked: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = pytest.importorskip("pycocotools.coco")
    everything(monkeypatch)
    words = ("click", "photos", "--objects", "clicks.json", "-m", folder)
    told = command(*words, "--json").json()
    coco = decoder.COCO(told["coco"])
    assert [(image["file_name"], image["height"], image["width"]) for image in coco.loadImgs(coco.getImgIds())] == [
        ("one.png", 40, 64), ("sub/two.png", 40, 64)]  # fmt: skip
    assert {entry["name"] for entry in coco.loadCats(coco.getCatIds())} == {"a cup/mug", "object"}
    segmenter = load_promptable(folder)
    with Image.open("photos/one.png") as image, torch.no_grad():
        state = segmenter.encode(image.convert("RGB"))
        pointed = Prompts.of(points=[(20, 12), (60, 4)], labels=[1, 0])
        boxed = Prompts.of(box=(5, 5, 50, 38))
        want = [segmenter.predict(state, each, multimask=False).masks()[0].numpy() for each in (pointed, boxed)]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=1))
    assert len(annotations) == 2
    for annotation, mask in zip(annotations, want, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        rows, columns = mask.nonzero()
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    # The PNG of labels: later objects over earlier ones, each in the colour that its number has everywhere.
    with Image.open("objects/one-labels.png") as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), np.where(want[1], 2, np.where(want[0], 1, 0)))
    with Image.open("objects/one-1-a-cup-mug.png") as cut_out, Image.open("photos/one.png") as image:
        rows, columns = want[0].nonzero()
        place = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        np.testing.assert_array_equal(np.asarray(cut_out)[..., 3] == 255, want[0][place])
        np.testing.assert_array_equal(np.asarray(cut_out)[..., :3], np.asarray(image)[place])
    assert len(coco.getAnnIds(imgIds=2)) == 1
    # What it wrote can be opened in place of the session: the same masks, without a click.
    again = command("click", "photos", "--objects", told["coco"], "-m", folder, "--out", "again", "--json").json()
    first, second = (json.loads(Path(each["coco"]).read_text()) for each in (told, again))
    assert first["annotations"] == second["annotations"]
    # Twice the same call replaces what is its own; --coco says where.
    assert command(*words, "--coco", "all.json").code == 0
    assert json.loads(Path("all.json").read_text())["annotations"] == first["annotations"]


def test_objects_of_one_picture_and_what_is_missing(
    command: Command, clicked: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(monkeypatch)
    words = ("--objects", "clicks.json", "-m", folder)
    one = command("click", "photos/one.png", *words, "--json").json()
    assert [entry["image"] for entry in one["images"]] == ["photos/one.png"]
    refused = command("click", "photos", *words, "--coco", "clicks.json")
    assert (refused.code, "is read here" in refused.err) == (2, True)
    Path("photos/sub/two.png").unlink()
    done = command("click", "photos", *words)
    assert done.code == 1
    assert "sub/two.png" in done.err
    Image.new("RGB", (9, 9)).save("photos/one.png")
    done = command("click", "photos", *words)
    assert done.code == 1
    assert "clicked on 64 x 40 pixels, the picture has 9 x 9" in done.err
    assert "sub/two.png" in done.err  # also where none is left, each is named
    Path("photos/one.png").rename("photos/three.png")
    done = command("click", "photos", *words)
    assert (done.code, "none of them is in photos" in done.err) == (2, True)
    for options, message in (
        (("--objects", "clicks.json", "--point", "3,3"), "--objects has points and boxes of its own"),
        (("--point", "3,3", "--coco", "c.json"), "--coco goes with --objects"),
        (("--objects", "photos/three.png"), "neither a session of clicks nor COCO"),
        (("--objects", "none.json"), "none.json"),
    ):
        done = command("click", "photos", "-m", folder, *options)
        assert done.code in (1, 2)
        assert message in done.err
