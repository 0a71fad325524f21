"""`binderclip click` with a tiny promptable model of random weights."""

from __future__ import annotations

from collections.abc import Callable
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
