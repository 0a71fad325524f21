"""The tab that explains: overlays, numbers and lines of several methods; a caption's words."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, NotSupported, UsageError

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.explain import METHODS
from binderclip.models import load
from binderclip.tasks.models import cached_models
from binderclip.workbench.tabs import explain as tab


def test_each_method_leaves_its_overlay_and_a_row(run_of, photographs: Path):
    run, picture = run_of(), str(photographs / "cat.jpg")
    gallery, table = (outcome := tab.work(run, picture, "a cat", ["gradcam", "saliency"])).values
    assert [name for _, name in gallery] == ["gradcam", "saliency"]
    assert [path.name for path in outcome.files] == ["cat-gradcam.png", "cat-saliency.png"]
    # The place of the strongest evidence is that of the method called by itself.
    with Image.open(picture) as opened:
        width = opened.width
    found = METHODS["saliency"]()(load("small"), [picture], "a cat")
    column = int((found.peak()[0] + 0.5) * width / found.size[1])
    assert f"x {column}," in table
    assert outcome.again.shell == ("binderclip explain cat.jpg --label 'a cat' --method gradcam,saliency --model small")
    # No empty column; one where a method adds up to its score.
    assert "Completeness" not in table
    _, added = tab.work(run_of(), picture, "a cat", ["saliency", "integrated_gradients"]).values
    assert "Completeness error" in added


def test_words_of_a_caption_are_coloured_and_escaped(run_of, photographs: Path):
    outcome = tab.colour_words(run_of(), str(photographs / "cat.jpg"), "a cat <b> rocket")
    (shown,) = outcome.values
    assert shown.count("title=") >= 3
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    assert "Cosine" in outcome.said
    assert "Not read" not in outcome.said
    assert shown.endswith("struck through: not read.</p>")


def test_words_that_the_model_does_not_read_are_named(run_of, photographs: Path):
    outcome = tab.colour_words(
        run_of(), str(photographs / "cat.jpg"), "a cat " + "on a very red sofa " * 4 + "and rockets"
    )
    assert outcome.said.endswith("and, rockets")
    assert "Not read, too far back for small: " in outcome.said


@pytest.mark.parametrize(("label", "methods", "said"), [(" ", ["gradcam"], "type what"), ("a cat", [], "tick 1 to")])
def test_what_is_missing_is_said_before_a_model_is_loaded(run_of, photographs: Path, label, methods, said):
    run = run_of("no such model")
    with pytest.raises(UsageError, match=said):
        tab.work(run, str(photographs / "cat.jpg"), label, methods)


def test_every_line_draws_what_the_page_shows(
    run_of, photographs: Path, tmp_path: Path, command, lines, monkeypatch: pytest.MonkeyPatch
):
    """Also of a picture that is made smaller before it is explained."""
    run = run_of()
    with Image.open(photographs / "coffee.jpg") as opened:
        opened.resize((1210, 797)).save(tmp_path / "large.png")
    outcome = tab.work(run, str(tmp_path / "large.png"), "a cup", ["gradcam", "saliency"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "request.json").write_text(outcome.again.request)
    for ask in (
        lambda: exec(outcome.again.python, {}),
        lambda: command(*lines.words(outcome.again.shell)),
        lambda: command("explain", "--from", tmp_path / "request.json"),
    ):
        ask()
        for name in ("large-gradcam.png", "large-saliency.png"):
            made = tmp_path / "explain" / name
            np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(run.folder / name)))
            made.unlink()
    one = tab.work(run, str(tmp_path / "large.png"), "a cup", ["gradcam"])
    assert command(*lines.words(one.again.shell)).code == 0
    shown = np.asarray(Image.open(run.folder / "large-gradcam.png"))
    np.testing.assert_array_equal(np.asarray(Image.open("large-gradcam.png")), shown)


def test_methods_that_need_the_same_passes_share_them_and_are_shown_one_by_one(
    run_of, photographs: Path, monkeypatch: pytest.MonkeyPatch
):
    run, seen, passes, shown = run_of(), list[int](), dict[str, int](), list[tuple[list[str], int]]()
    tower = run.bench.models.image_text("small").image_tower.module
    first = next(part for part in tower.modules() if isinstance(part, torch.nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    show = lambda gallery, _: shown.append(([name for _, name in gallery], sum(seen)))  # noqa: E731
    monkeypatch.setattr(run, "show", show)
    three = ["smoothgrad", "saliency", "vargrad"]
    with cached_models(run.bench.models.get):
        for names in (*([name] for name in three), three):
            seen.clear()
            shown.clear()
            tab.work(run, str(photographs / "cat.jpg"), "a cat", names)
            passes[",".join(names)] = sum(seen)
    hook.remove()
    # SmoothGrad and VarGrad are the mean and the variance over the same noisy copies, beside the picture itself.
    assert passes["smoothgrad"] == passes["vargrad"] == passes["smoothgrad,saliency,vargrad"] > passes["saliency"] == 1
    # What needs the picture alone is there before the noisy copies are run.
    assert shown == [
        (["saliency"], 1), (["smoothgrad", "saliency"], passes["smoothgrad"]), (three, passes["smoothgrad"]),
    ]  # fmt: skip


def test_a_method_that_cannot_be_run_costs_its_own_cell_alone(run_of, photographs: Path):
    run, picture = run_of("small-b"), str(photographs / "cat.jpg")
    outcome = tab.work(run, picture, "a cat", ["gradcam", "rollout", "saliency"])
    gallery, table = outcome.values
    assert [name for _, name in gallery] == ["gradcam", "saliency"]
    assert "<td>rollout</td><td>left out: " in table
    assert outcome.said == "1 method could not be used."
    assert "--method gradcam,saliency" in outcome.again.shell
    with pytest.raises(NotSupported):
        tab.work(run, picture, "a cat", ["rollout"])


def test_a_caption_that_begins_with_a_dash_is_one_in_the_line(run_of, photographs: Path, command, lines):
    outcome = tab.colour_words(run_of(), str(photographs / "cat.jpg"), "--a cat")
    shutil.copy(photographs / "cat.jpg", "cat.jpg")
    assert command(*lines.words(outcome.again.shell)).code == 0


def test_a_picture_that_would_fill_the_memory_is_refused_before_a_model_is_loaded(run_of, tmp_path: Path):
    Image.new("1", (8_000, 8_000)).save(tmp_path / "large.png")
    for work, given in ((tab.work, ("a cat", ["gradcam"])), (tab.colour_words, ("a cat",))):
        with pytest.raises(DataError, match=r"large\.png has 8000 x 8000 pixels: at most 40 million"):
            work(run_of("no such model"), str(tmp_path / "large.png"), *given)
