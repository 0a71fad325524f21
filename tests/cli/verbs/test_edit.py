"""`binderclip edit`: every method by a tiny random pipeline, at its number of forwards; sizes, sheet, mistakes."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from binderclip.data import to_tensor
from binderclip.generate import ScoreDistillation, load_denoiser
from binderclip.tasks import edit
from binderclip.tasks.events import Counted, Event, Previewed
from binderclip.tasks.verbs.edit.methods import EDITORS, Edit, PictureToEdit
from binderclip.tasks.verbs.edit.request import METHODS, changed_words, place_words

Command = Callable[..., Any]
TEXTS = ["--from", "a red dog", "--to", "a red cat"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide picture, one of the model's size, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, size in (("wide", (24, 40)), ("fits", (16, 16))):
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    return folder


def pixels(path: object) -> torch.Tensor:
    with Image.open(str(path)) as picture:
        return to_tensor(picture.convert("RGB"))


FORWARDS: dict[str, Callable[[int], int]] = {
    "dds": lambda steps: steps,
    "prompt-to-prompt": lambda steps: 2 * steps,  # the inversion, then picture and edit with both branches in one
    "vimaedit": lambda steps: steps,
    "strength": lambda steps: round(0.6 * steps),
    "abs-grad-sam": lambda steps: steps + 3,  # once more at each of three steps
    "lusd": lambda steps: steps,  # and one for each draw that is refused, of which this network has none
    # the inversion and the edit; of each step one without a text and one at its end, and fewer updates the later it is
    "stylediffusion": lambda steps: 4 * steps + sum(math.ceil(10 * math.exp(-0.1 * i)) for i in range(steps)),
}
"""Most forwards of a picture, by the number of steps."""


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_edits_by_its_seed_and_keeps_its_number_of_forwards(
    pictures: Path, tiny_diffusion: Path, tmp_path: Path, method: str
) -> None:
    events: list[Event] = []
    made = {}
    for seed in (0, 0, 1):
        request = edit.request(
            images=[pictures / "wide.png"], source="a red dog", target="a red cat", method=method, steps=5, seed=seed,
            model=tiny_diffusion, out=tmp_path / f"{seed}",
        )  # fmt: skip
        result = edit.run(request, progress=events.append)
        (row,) = result.rows
        before = made.get(seed)
        made[seed] = pixels(row.small)
        assert before is None or torch.equal(before, made[seed])
        assert row.forwards == FORWARDS[method](5)
        assert (row.inversion_error is None) == (method not in ("prompt-to-prompt", "stylediffusion"))
        assert row.seed == seed
    if method not in ("prompt-to-prompt", "stylediffusion"):  # which draw no noise
        assert float((made[0] - made[1]).abs().max()) > 1 / 255
    denoiser = load_denoiser(tiny_diffusion)
    with torch.no_grad():
        plain = denoiser.decode(denoiser.encode(torch.full((1, 3, 16, 16), 0.5)))[0]
    assert float((made[0] - plain).abs().max()) > 1 / 255
    assert any(isinstance(event, Counted) and event.total >= 3 for event in events)


def test_delta_denoising_is_that_of_the_library(pictures: Path, tiny_diffusion: Path, tmp_path: Path) -> None:
    result = edit(
        images=[pictures / "fits.png"], source="a dog", target="a cat", guidance=3, steps=4, seed=5,
        model=tiny_diffusion, out=tmp_path / "out",
    )  # fmt: skip
    denoiser = load_denoiser(tiny_diffusion)
    with torch.no_grad():
        latents = ScoreDistillation("a cat", "a dog", guidance_scale=3.0).edit(
            denoiser, denoiser.encode(pixels(pictures / "fits.png")[None]), num_steps=4,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        expected = denoiser.decode(latents)[0]
    assert float((pixels(result.rows[0].small) - expected).abs().max()) < 0.5 / 255 + 1e-3


def test_the_square_is_edited_and_comes_back_in_its_place(
    command: Command, pictures: Path, tiny_diffusion: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = command("edit", pictures, *TEXTS, "--method", "strength", "--strength", "1", "--steps", "3", "-m",
                   tiny_diffusion, "--out", out, "--json")  # fmt: skip
    assert done.code == 0, done.err  # the broken one was found, not named
    document = done.json()
    assert [Path(each["image"]).name for each in document["skipped"]] == ["broken.png"]
    assert "broken.png" in done.err
    by_name = {Path(row["image"]).name: row for row in document["images"]}
    wide = by_name["wide.png"]
    assert wide["used"] == "40 x 24 px, its middle square resized to 16 x 16"
    assert by_name["fits.png"]["used"] == "16 x 16 px, as it is"
    edited, original = pixels(wide["result"]), pixels(pictures / "wide.png")
    assert edited.shape == original.shape
    assert torch.equal(edited[..., :8], original[..., :8])
    assert torch.equal(edited[..., 32:], original[..., 32:])
    assert float((edited[..., 8:32] - original[..., 8:32]).abs().mean()) > 0.02
    assert pixels(wide["small"]).shape == (3, 16, 16)
    assert sorted(path.name for path in out.iterdir()) == [
        "before-after.png", "fits-small.png", "fits.png", "table.csv", "wide-small.png", "wide.png",
    ]  # fmt: skip
    with (out / "table.csv").open(newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"0"}
    # Named one by one it is an error, and the others are edited all the same.
    names = [pictures / "broken.png", pictures / "fits.png"]
    done = command("edit", *names, *TEXTS, "--steps", "2", "-m", tiny_diffusion, "--out", tmp_path / "two")
    assert done.code == 1
    assert (tmp_path / "two" / "fits.png").is_file()
    assert "edited at 16 x 16 px" in done.err


def drawn_square(folder: Path, name: str = "square.png") -> tuple[Path, np.ndarray]:
    """A red square of 400 px on white with fine stripes in it, six times larger than the bundled model's side."""
    values = np.full((400, 400, 3), 250, np.uint8)
    values[100:300, 100:300] = (200, 30, 30)
    values[100:300, 100:300:4] -= 20
    Image.fromarray(values).save(folder / name)
    return folder / name, values


def edit_that_gives(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[PictureToEdit], Edit]:
    """A way to edit that gives the latents of the picture after a change of its pixels."""
    return lambda picture: (picture.denoiser.encode(change(picture.pixels)), None)


def test_a_large_picture_keeps_its_detail_where_only_colours_change(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = drawn_square(tmp_path)
    monkeypatch.setitem(EDITORS, "dds", edit_that_gives(lambda pixels: pixels[:, [2, 1, 0]]))  # red and blue swapped
    words = ("edit", path, "--from", "a red square", "--to", "a blue square", "--out", "out", "--json")
    document = command(*words).json()
    (row,) = document["images"]
    after = np.asarray(Image.open(row["result"])).astype(int)
    assert after.shape == values.shape
    inside = after[120:280, 120:280]
    assert float(inside[..., 2].mean()) > float(inside[..., 0].mean()) + 80
    stripes = inside[:, 1::4].mean((0, 1)) - inside[:, ::4].mean((0, 1))  # 20 levels in the picture
    assert np.abs(stripes - 20).max() < 8
    assert row["moved"] < 0.08
    assert 0.5 < row["detail"] < 1.5
    assert Image.open(row["small"]).size == (64, 64)


def test_where_things_moved_only_the_small_edit_is_written_unless_a_blur_is_asked_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = drawn_square(tmp_path)
    monkeypatch.setitem(EDITORS, "dds", edit_that_gives(lambda pixels: pixels.roll((14, 12), (2, 3))))
    words = ("edit", path, "--from", "a red square", "--to", "a red circle", "--out", "out")
    blown_up = command(*words, "--coarse", "--json").json()
    (row,) = blown_up["images"]
    assert np.asarray(Image.open(row["result"])).shape == values.shape
    assert row["moved"] > 0.3
    assert row["detail"] < 0.3
    # The same without: what the run before left at that place, a blur, is none of this one's results.
    done = command(*words)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "square.png: things moved (" in said
    assert "made at 64 px alone (at the picture's size, blurred: --coarse)" in said
    assert sorted(each.name for each in Path("out").iterdir()) == ["before-after.png", "square-small.png", "table.csv"]
    with Path("out/table.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (Path(line["edit"]).name, line["detail"]) == ("square-small.png", "")
    assert float(line["moved"]) == pytest.approx(row["moved"], abs=1e-3)


def test_an_interrupted_run_keeps_what_was_edited(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        drawn_square(tmp_path / "in", name)
    edits = iter([False, True])

    def interrupted(picture: PictureToEdit) -> Edit:
        if next(edits):
            raise KeyboardInterrupt
        return picture.denoiser.encode(picture.pixels[:, [2, 1, 0]]), None

    monkeypatch.setitem(EDITORS, "dds", interrupted)
    done = command("edit", tmp_path / "in", "--from", "a red square", "--to", "a blue square", "--out", "out")
    assert done.code == 130
    assert "interrupted: 1 picture done, in out" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert sorted(each.name for each in Path("out").iterdir()) == [
        "a-small.png",
        "a.png",
        "before-after.png",
        "table.csv",
    ]
    with Path("out/table.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (Path(line["image"]).name, line["before small"]) == ("a.png", "")


def test_it_can_be_looked_at_while_it_runs(pictures: Path, tiny_diffusion: Path, tmp_path: Path) -> None:
    for method in METHODS:
        shown: list[list[tuple[int, int]]] = []

        def hear(event: Event, shown: list[list[tuple[int, int]]] = shown) -> None:
            if isinstance(event, Previewed):
                shown.append([picture.size for picture in event.render()])

        request = edit.request(
            images=[pictures / "fits.png"], source="a dog", target="a cat", method=method, steps=3,
            model=tiny_diffusion, out=tmp_path / method,
        )  # fmt: skip
        edit.run(request, progress=hear)
        assert len(shown) >= 2, method
        assert all(sizes == [(16, 16)] for sizes in shown)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--from", "", "--to", "a cat"], "--from is empty"),
        (["--from", "a cat", "--to", " a  cat"], "nothing would change"),
        ([*TEXTS, "--word", "horse"], "--word 'horse' is not in --from 'a red dog'"),
        ([*TEXTS, "--new-word", "horse"], "--new-word 'horse' is not in --to 'a red cat'"),
        ([*TEXTS, "--word", "og"], "has no word 'og'"),
        ([*TEXTS, "--method", "prompt-to-prompt", "--steps", "1"], "needs 2 steps at least"),
        ([*TEXTS, "--method", "vimaedit", "--steps", "1"], "needs 2 steps at least"),
        ([*TEXTS, "--method", "magic"], "one of dds, lusd"),
        ([*TEXTS, "--method", "lusd", "--guidance", "3"], "has none"),
        ([*TEXTS, "--strength", "0.5"], "does not go with dds"),
        (["--from", "a red cat", "--to", "a cat", "--method", "abs-grad-sam"], "give --new-word"),
        ([*TEXTS, "--steps", "0"], "--steps"),
        (["--from", 200 * "a " + "dog", "--to", 200 * "a " + "cat"], "'dog' stands beyond the"),
    ],
)
def test_what_cannot_be_edited_is_said(
    command: Command, pictures: Path, tiny_diffusion: Path, tmp_path: Path, words: list[str], text: str
) -> None:
    done = command("edit", pictures / "fits.png", *words, "-m", tiny_diffusion, "--out", tmp_path / "out")
    assert done.code == 2, done.err
    assert text in done.err
    assert not (tmp_path / "out").exists()


def test_one_step_and_no_guidance_behave(
    command: Command, pictures: Path, tiny_diffusion: Path, tmp_path: Path
) -> None:
    for method in ("dds", "lusd", "strength", "abs-grad-sam"):
        more = [] if method == "lusd" else ["--guidance", "0"]
        done = command("edit", pictures / "fits.png", *TEXTS, "--method", method, "--steps", "1", *more, "-m",
                       tiny_diffusion, "--out", tmp_path / method)  # fmt: skip
        assert done.code == 0, done.err


def test_pictures_and_broken_models_are_left_alone(
    command: Command, pictures: Path, tiny_diffusion: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_diffusion, tmp_path / "model"))
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file(dict(list(state.items())[1:]), weights)
    done = command("edit", pictures / "fits.png", *TEXTS, "-m", model, "--out", tmp_path / "out")
    assert done.code != 0
    assert "weights are missing" in done.err
    assert not (tmp_path / "out").exists()
    mine = tmp_path / "mine"
    shutil.copytree(pictures, mine)
    done = command("edit", mine / "fits.png", *TEXTS, "--steps", "1", "-m", tiny_diffusion, "--out", mine)
    assert done.code == 2
    assert "would be replaced" in done.err
    done = command("edit", pictures / "broken.png", *TEXTS, "-m", tiny_diffusion, "--out", tmp_path / "none")
    assert done.code != 0
    assert "; give another picture" in done.err
    assert not (tmp_path / "none").exists()


def test_the_words_that_change_are_those_that_differ() -> None:
    assert changed_words("a red apple", "a green apple") == ("red", "green")
    assert changed_words("a cat", "a cat with a hat.") == ("", "with a hat")
    assert changed_words("a Cat on grass", "a big dog on grass") == ("Cat", "big dog")
    assert changed_words("a cat with a hat", "a cat") == ("with a hat", "")
    assert changed_words("a cat", "a Cat") == ("", "")


@pytest.mark.parametrize(
    ("source", "target", "places"),
    [
        ("a purple heart", "a green heart", ("heart", "heart")),
        ("a red sports car on a road", "a blue sports car on a road", ("sports car", "sports car")),
        ("a heart", "a green heart", ("heart", "heart")),
        ("an old house, at night", "a new house, at night", ("house", "house")),
        ("a cat on grass", "a dog on grass", ("cat", "dog")),
        ("a cat sitting", "a dog sitting", ("cat", "dog")),
        ("a cat", "a cat with a hat", ("", "with a hat")),
        ("a red cat", "a blue dog", ("red cat", "blue dog")),
    ],
)
def test_the_place_is_that_of_the_thing_which_changed_words_describe(
    source: str, target: str, places: tuple[str, str]
) -> None:
    assert place_words(source, target) == places


def test_words_that_are_named_are_the_place() -> None:
    request = edit.request(images=["a"], source="a red car", target="a blue car", word="red")
    assert request.places == ("red", "blue")


def test_a_bundled_heart_turns_green_where_it_is(command: Command, tmp_path: Path) -> None:
    """Attention to "purple" lies on the ground, so that a mask of it left the heart as it was."""
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).polygon([(12, 24), (22, 16), (32, 24), (42, 16), (52, 24), (32, 52)], fill=(110, 40, 160))
    picture.save(tmp_path / "heart.png")
    words = ["edit", "heart.png", "--from", "a purple heart", "--to", "a green heart", "--method", "vimaedit"]
    done = command(*words, "--steps", 15, "--out", "green")
    assert done.code == 0, done.err
    red, green, blue = np.asarray(Image.open("green/heart.png").convert("RGB"))[30, 32].tolist()
    assert green > max(red, blue) + 40
