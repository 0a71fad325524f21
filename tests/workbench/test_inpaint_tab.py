"""The tab Inpaint: what is painted over becomes what the verb makes of the same mask; mistakes are named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from binderclip.errors import CheckpointError, UsageError
from binderclip.generate import load_denoiser, personalize


def inpainted(run: Any, file: Path | None, text: str, painted: Any = None, mask: Path | None = None, word: str = "",
              **options: Any) -> Any:  # fmt: skip
    from binderclip.workbench.tabs.make.inpaint import FORM, work

    own = (options.get(name) for name in FORM.names)
    return work(run, None if file is None else str(file), text, word, painted, mask and str(mask), *own)


@pytest.fixture
def painted(tmp_path: Path) -> dict[str, Any]:
    """What the editor gives of a picture of 320 x 213 px, whose half size was painted on with half-clear red."""
    layer = Image.new("RGBA", (160, 106))
    ImageDraw.Draw(layer).rectangle((40, 30, 79, 59), fill=(210, 47, 47, 166))
    layer.save(tmp_path / "layer.png")
    return {"background": "b.png", "layers": [str(tmp_path / "layer.png")], "composite": "c.png"}


def test_what_is_painted_over_becomes_what_the_verb_makes_of_it(
    tiny_inpainter: Path, photographs: Path, run_of: Any, command: Any, lines: Any, documents: list[Any],
    painted: dict[str, Any],
) -> None:  # fmt: skip
    run = run_of()
    photo = photographs / "coffee.jpg"
    outcome = inpainted(run, photo, "a red dog", painted, model=str(tiny_inpainter), steps=2, coarse=True)
    (here,) = documents
    mask = np.asarray(Image.open(outcome.files[1])) > 0
    with Image.open(photo) as picture:
        assert mask.shape == picture.size[::-1]
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    # Twice the painted box, but for the pixel that resizing may move its edge by.
    np.testing.assert_allclose([rows[0], rows[-1], columns[0], columns[-1]], [60, 120, 80, 159], atol=1.5)
    before, after = (np.asarray(Image.open(path)) for path in outcome.values[1]["value"])
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()
    # The line of the page, beside the picture and the mask that was downloaded.
    shutil.copy(photo, "coffee.jpg")
    shutil.copy(outcome.files[1], "mask.png")
    there = command(*lines.words(outcome.again.shell), "--json").json()
    for name in ("share", "changed", "change", "seen"):
        assert there[name] == here[name], name
    np.testing.assert_array_equal(np.asarray(Image.open(there["out"])), after)


def test_a_mask_of_a_file_goes_before_what_was_painted(
    tiny_inpainter: Path, photographs: Path, run_of: Any, painted: dict[str, Any], tmp_path: Path
) -> None:
    photo = photographs / "coffee.jpg"
    with Image.open(photo) as picture:
        mask = Image.new("L", picture.size)
    mask.paste(255, (10, 10, 30, 40))
    mask.save(tmp_path / "mine.png")
    outcome = inpainted(
        run_of(), photo, "a dog", painted, tmp_path / "mine.png", model=str(tiny_inpainter), steps=1, grow=0
    )
    np.testing.assert_array_equal(np.asarray(Image.open(outcome.files[1])), np.asarray(mask))


def test_a_learned_word_is_taken_from_an_open_folder(
    tiny_diffusion: Path, photographs: Path, run_of: Any, painted: dict[str, Any], tmp_path: Path, documents: list[Any]
) -> None:
    import torch

    denoiser = load_denoiser(tiny_diffusion)
    concept = personalize(denoiser, torch.rand(1, 3, 16, 16), "dog", word="<mine>", steps=1)
    concept.save(tmp_path / "words" / "my-dog")
    run = run_of(folders=[tmp_path / "words"])
    word = str(tmp_path / "words" / "my-dog")
    settings = {"model": str(tiny_diffusion), "steps": 1, "resamples": "1", "coarse": True}
    outcome = inpainted(run, photographs / "coffee.jpg", "a <mine> dog", painted, word=word, **settings)
    assert documents[0]["request"]["personal"] == word
    assert f"--personal {word}" in outcome.again.shell
    with pytest.raises(UsageError, match="is no learned word in the folders"):
        inpainted(run, photographs / "coffee.jpg", "a dog", painted, word=str(tmp_path), **settings)


def test_mistakes_are_said_by_the_names_on_the_page(
    tiny_inpainter: Path, photographs: Path, run_of: Any, painted: dict[str, Any], tmp_path: Path
) -> None:
    photo, model = photographs / "coffee.jpg", str(tiny_inpainter)
    with pytest.raises(UsageError, match="choose a picture first"):
        inpainted(run_of(), None, "a dog", painted)
    with pytest.raises(UsageError, match="say what belongs there, such as"):
        inpainted(run_of(), photo, " ", painted)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (160, 106)).save(clear)
    for nothing in (None, {"layers": []}, {"layers": [str(clear)]}):
        with pytest.raises(UsageError, match="paint over what is to change, or give a mask"):
            inpainted(run_of(), photo, "a dog", nothing, model=model)
    Image.new("L", (8, 9), 255).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match=r"small\.png is 8 x 9 px, the picture 320 x"):
        inpainted(run_of(), photo, "a dog", None, tmp_path / "small.png", model=model)
    Image.new("RGBA", (160, 106), "red").save(clear)
    with pytest.raises(UsageError, match=r"^The mask .*is the whole picture"):
        inpainted(run_of(), photo, "a dog", {"layers": [str(clear)]}, model=model)
    with pytest.raises((UsageError, CheckpointError), match="nowhere"):
        inpainted(run_of(), photo, "a dog", painted, model="nowhere")


def test_from_a_stroke_to_before_and_after(view: Any, tiny_inpainter: Path, photographs: Path) -> None:
    panel = view.tab("Inpaint")
    view.drop(panel, photographs / "coffee.jpg")
    panel.get_by_label("What belongs there").fill("a red dog")
    panel.get_by_label("Diffusion model").fill(str(tiny_inpainter))
    panel.get_by_label("number input for Steps").fill("2")
    canvas = panel.locator(".paint canvas").first
    view.page.wait_for_function("() => document.querySelector('.paint canvas')?.width > 100")
    assert view.run(panel, "Inpaint") == "paint over what is to change, or give a mask"
    view.stroke(canvas, (0.45, 0.45), (0.55, 0.55))
    assert "give a smaller mask" in view.run(panel, "Inpaint").lower()  # 160 px at the side of a model of 16
    panel.get_by_label("Accept a blur").check()
    view.run(panel, "Inpaint")
    assert "all others are as they were" in panel.inner_text()
    view.loaded(panel.locator("img").last)
    assert "--mask mask.png --text 'a red dog'" in view.lines(panel)[0]
    assert view.look("inpaint") == []
    assert view.axe() == []
