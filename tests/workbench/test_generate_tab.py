"""The tabs Generate and Edit: the pictures of the verbs, shown while they are made; before and after under a slider."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import UsageError
from binderclip.tasks.events import listening
from binderclip.workbench import tab


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(path)
    return path


def drawn(run: Any, texts: str, model: object, folder: str = "", **options: Any) -> Any:
    from binderclip.workbench.tabs.make.generate import FORM, work

    given = {"count": 1, "guidance": 3.0, "steps": 2, "seed": 0, "model": str(model), **options}
    steered = (given.get("controlnet"), given.get("image"), given.get("scale", 1.0))
    return work(run, texts, folder, "", *steered, *(given.get(name) for name in FORM.names))


def edited(run: Any, files: list[str], model: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.edit import FORM, work

    given = {"source": "a red dog", "target": "a red cat", "method": "dds", "steps": 2, "seed": 0, "strength": 0.6,
             "guidance": 4.0, "model": str(model), **options}  # fmt: skip
    return work(run, files[0] if files else None, *(given.get(name) for name in FORM.names))


def test_pictures_are_those_of_the_verb_and_are_seen_before_they_are_done(
    run_of: Any, tiny_diffusion: Path, documents: list[Any], command: Any, lines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab, "LOOK_AGAIN", 0.0)
    run, shown = run_of(), list[Any]()
    monkeypatch.setattr(run, "show", lambda *values: shown.append(values))
    with listening(run.hear):  # as the page does
        outcome = drawn(run, "a red dog\n\n a cat ", tiny_diffusion, count=2)
    assert [label for _, label in outcome.values[0]] == [
        "a red dog, seed 0", "a red dog, seed 1", "a cat, seed 0", "a cat, seed 1",
    ]  # fmt: skip
    assert len(shown) == 4, "two steps of two texts"
    assert all(len(values[0]) == 2 and Image.open(values[0][0]).size == (256, 256) for values in shown)
    (here,) = documents
    there = command(*lines.words(outcome.again.shell), "--json").json()
    assert [row["agreement"] for row in there["pictures"]] == [
        pytest.approx(row["agreement"], abs=1e-3) for row in here["pictures"]
    ]
    assert "agreement small-b" in outcome.values[1].lower()
    assert outcome.files[0].name == "sheet.png"


def test_a_control_image_steers_as_by_the_verb(
    run_of: Any, tiny_diffusion: Path, tiny_controlnet: Path, picture: Path, command: Any, lines: Any
) -> None:
    steered = {"controlnet": f" {tiny_controlnet} ", "image": str(picture), "scale": 0.5}
    outcome = drawn(run_of(), "a red dog", tiny_diffusion, **steered)
    plain = drawn(run_of(), "a red dog", tiny_diffusion)
    shutil.copy(picture, "noise.png")
    words = lines.words(outcome.again.shell)
    assert words[words.index("--control-image") + 1] == "noise.png"
    there = command(*words, "--json").json()
    here, other, plainly = (
        np.asarray(Image.open(path))
        for path in (outcome.values[0][0][0], there["pictures"][0]["picture"], plain.values[0][0][0])
    )
    np.testing.assert_array_equal(here, other)
    assert (here != plainly).any()
    with pytest.raises(UsageError, match=r"^ControlNet needs Control image: the picture that it reads"):
        drawn(run_of(), "a cat", tiny_diffusion, controlnet=str(tiny_controlnet))
    with pytest.raises(UsageError, match=r"^Control image needs ControlNet: the folder"):
        drawn(run_of(), "a cat", tiny_diffusion, image=str(picture))
    with pytest.raises(UsageError, match="give the folder of a diffusers pipeline by Diffusion model"):
        drawn(run_of(), "a cat", "small-diffusion", **steered)


def test_mistakes_are_said_by_the_names_on_the_page(run_of: Any, tiny_diffusion: Path, picture: Path) -> None:
    with pytest.raises(UsageError, match="type what is to be drawn"):
        drawn(run_of(), " \n ", tiny_diffusion)
    with pytest.raises(UsageError, match="was not opened on"):
        drawn(run_of(), "a cat", "", folder="/etc")
    with pytest.raises(UsageError, match=r"^Size 'big' is not HEIGHTxWIDTH"):
        drawn(run_of(), "a cat", tiny_diffusion, size="big")
    with pytest.raises(UsageError, match="choose a picture first"):
        edited(run_of(), [], tiny_diffusion)
    with pytest.raises(UsageError, match="nothing would change"):
        edited(run_of(), [str(picture)], tiny_diffusion, target="a red dog")
    with pytest.raises(UsageError, match="New word 'horse' is not in It should show"):
        edited(run_of(), [str(picture)], tiny_diffusion, new_word="horse")


@pytest.mark.parametrize("method", ["dds", "lusd", "strength"])
def test_an_edit_is_that_of_the_verb_before_and_after(
    run_of: Any, tiny_diffusion: Path, picture: Path, documents: list[Any], method: str
) -> None:
    outcome = edited(run_of(), [str(picture)], tiny_diffusion, method=method)
    preview_rows, (before, after), said = outcome.values
    with Image.open(before) as first, Image.open(after) as second:
        assert first.size == second.size == (24, 24)
    assert Path(preview_rows[0][0]).name == "noise-small.png"
    assert "Edited at 16 x 16 px" in said
    (here,) = documents
    assert here["method"] == method


def test_where_things_moved_the_small_edit_stands_beside_what_the_model_saw(
    run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.tasks.verbs.edit.methods import EDITORS

    values = np.full((200, 300, 3), 250, np.uint8)
    values[50:150, 60:160] = (200, 30, 30)
    Image.fromarray(values).save(tmp_path / "square.png")
    monkeypatch.setitem(
        EDITORS, "dds", lambda picture: (picture.denoiser.encode(picture.pixels.roll((12, 14), (2, 3))), None)
    )
    for coarse, names in ((False, ["square-small.png"]), (True, ["square.png", "square-small.png"])):
        outcome = edited(run_of(), [str(tmp_path / "square.png")], "small-diffusion", coarse=coarse)
        _, (before, after), said = outcome.values
        with Image.open(before) as first, Image.open(after) as second:
            assert first.size == second.size == ((300, 200) if coarse else (64, 64))
        assert [path.name for path in outcome.files] == [*names, "before-after.png"]
        assert ("at 64 px alone (at the picture&#x27;s size, blurred: Blow up where things moved)" in said) == (
            not coarse
        )
        assert "--coarse" not in said
        assert ("--coarse" in outcome.again.shell) == coarse
