"""The tab Personalise: a word as the verb learns it, kept for Generate and Inpaint, also when it was stopped."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.generate import PersonalConcept
from binderclip.tasks.events import Counted, Event, listening


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures, and a file that is none."""
    folder, rng = tmp_path_factory.mktemp("mine"), np.random.default_rng(0)
    for name, size in (("a", (20, 16)), ("b", (16, 24))):
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    return sorted(folder.iterdir())


def learned(run: Any, files: list[Path] | None, model: object, folder: str = "", **options: Any) -> Any:
    from binderclip.workbench.tabs.make.personalise import FORM, work

    run.bench.word_lists[:] = [None, None]  # of Generate and Inpaint
    given = {"class_name": "dog", "token": "<mine>", "steps": 3, "seed": 2, "model": str(model), **options}
    return work(
        run, None if files is None else list(map(str, files)), folder, *(given.get(name) for name in FORM.names)
    )


def test_a_word_is_that_of_the_verb_and_is_taken_by_generate(
    pictures: list[Path], tiny_diffusion: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    from binderclip.workbench.tabs.make.generate import FORM, work

    run = run_of(folders=[pictures[0].parent])
    outcome = learned(run, None, tiny_diffusion, folder=str(pictures[0].parent))
    said, *lists = outcome.values
    assert "&lt;mine&gt;, a dog, of 2 pictures: 3 steps" in said
    assert "write: a &lt;mine&gt; dog." in said
    assert "broken.png" in said
    assert outcome.said == "1 picture could not be read."
    assert [path.name for path in outcome.files] == ["mine-1.zip"]
    assert [[name for name, _ in each["choices"]] for each in lists] == [["(none)", "<mine> dog (mine-1)"]] * 2
    place = lists[0]["choices"][1][1]
    assert command(*lines.words(outcome.again.shell)).code == 0
    here, there = PersonalConcept.load(place), PersonalConcept.load(tmp_path / "mine")
    assert torch.equal(here.vector, there.vector)
    assert all(torch.equal(here.attention[name], there.attention[name]) for name in there.attention)
    # Generate takes it, and calls it as the verb has just called it.
    values = {"count": 1, "guidance": 3.0, "steps": 2, "seed": 0, "model": str(tiny_diffusion)}
    drawing = run_of(folders=[])
    drawing.folder = run.folder.parent / "next"
    drawing.folder.mkdir()
    drawn = work(drawing, "a <mine> dog", "", place, "", None, 1.0, *(values.get(name) for name in FORM.names))
    assert "--personal mine" in drawn.again.shell
    assert command(*lines.words(drawn.again.shell)).code == 0
    same = [np.asarray(Image.open(path)) for path in (drawn.values[0][0][0], "generated/a-mine-dog-0.png")]
    np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("often", [False, True])
def test_one_that_is_stopped_leaves_its_word(
    pictures: list[Path], tiny_diffusion: Path, run_of: Any, often: bool
) -> None:
    """By a stop that the training takes for its end, and by one more when the word is saved."""
    run, stopped = run_of(), list[Event]()

    def stop(event: Event) -> None:
        if (isinstance(event, Counted) and event.message == "step" and event.done == 2) or (often and stopped):
            stopped.append(event)
            raise KeyboardInterrupt

    with listening(stop), pytest.raises(KeyboardInterrupt) if often else nullcontext():
        learned(run, pictures[:1], tiny_diffusion, steps=50)
    left = run._job.left
    concept = PersonalConcept.load(left.values[1]["choices"][1][1])
    assert concept.interrupted
    assert concept.steps == 2
    assert ("Stopped early: &lt;mine&gt;" if often else "stopped after 2 steps of 50") in left.values[0]
    assert [path.name for path in left.files] == ["mine-1.zip"]


def test_mistakes_are_said_by_the_names_on_the_page(pictures: list[Path], tiny_diffusion: Path, run_of: Any) -> None:
    with pytest.raises(UsageError, match="choose pictures first"):
        learned(run_of(), None, tiny_diffusion)
    with pytest.raises(UsageError, match="fill in What it is one of"):
        learned(run_of(), pictures, tiny_diffusion, class_name=" ")
    with pytest.raises(UsageError, match="stands in angle brackets, such as <mine>"):
        learned(run_of(), pictures, tiny_diffusion, token="mine")
    with pytest.raises(UsageError, match=r"^Learning rate 'fast'"):
        learned(run_of(), pictures, tiny_diffusion, lr="fast")


def test_a_word_goes_from_pictures_into_the_lists_of_other_tabs(
    view: Any, pictures: list[Path], tiny_diffusion: Path
) -> None:
    panel = view.tab("Personalise")
    assert view.run(panel, "Learn the word").startswith("choose pictures first")
    view.drop(panel, *pictures[:2])
    panel.get_by_label("What it is one of").fill("dog")
    panel.get_by_label("number input for Steps").fill("3")
    panel.get_by_label("Diffusion model").fill(str(tiny_diffusion))
    assert view.run(panel, "Learn the word").startswith("Done in")
    assert "binderclip personalize" in view.lines(panel)[0]
    assert view.look("personalise") == []
    assert view.axe() == []
    for title in ("Generate", "Inpaint"):
        panel = view.tab(title)
        view.choose(panel, "Learned word", "<mine> dog (mine-1)")
        assert panel.get_by_label("Learned word", exact=True).input_value() == "<mine> dog (mine-1)", title
    panel = view.tab("Generate")
    panel.get_by_label("What is to be drawn, a text a line").fill("a <mine> dog")
    panel.get_by_label("number input for Steps").fill("5")
    view.more(panel)
    panel.get_by_label("Diffusion model").fill(str(tiny_diffusion))
    assert view.run(panel, "Generate").startswith("Done in")
    assert "--personal mine" in view.lines(panel)[0]
