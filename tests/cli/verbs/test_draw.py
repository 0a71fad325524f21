"""`binderclip draw`: files that grow with the drawing, a judge that did not guide, runs that are cut short."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import to_tensor
from binderclip.generate import BezierStrokes, load_vq_autoencoder
from binderclip.models import load
from binderclip.tasks import draw
from binderclip.tasks.events import Counted, Event, Previewed, Started
from binderclip.tasks.files.maker import is_ours
from binderclip.tasks.verbs.draw import request
from binderclip.tasks.verbs.draw.growing import LOOKS, Looks
from binderclip.tasks.verbs.draw.judge import other_texts, scored
from binderclip.tasks.verbs.draw.methods import METHODS
from binderclip.tasks.verbs.draw.request import METHOD_NAMES

Command = Callable[..., Any]
SMALL = ("--size", 32, "--strokes", 4, "--views", 1)


@pytest.fixture(scope="module")
def models(tiny_clip: Callable[[int], Path]) -> tuple[str, ...]:
    """Options of a tiny guide and a tiny judge."""
    return ("--model", str(tiny_clip(1)), "--judge", str(tiny_clip(2)))


def pixels(path: Path | str) -> torch.Tensor:
    return to_tensor(Image.open(path).convert("RGB"))


def test_strokes_move_towards_the_text_and_lie_in_a_picture_and_an_svg(
    command: Command, models: tuple[str, ...], tmp_path: Path
) -> None:
    words = ["draw", "a red apple", *SMALL, *models, "--steps", 12]
    document = command(*words, "--out", "a.png", "--json").json()
    assert document["guide"]["after"] > document["guide"]["before"]
    assert (document["judge"]["guides"], document["guide"]["guides"]) == (False, True)
    assert document["judge"]["model"] != document["guide"]["model"]
    assert all(map(is_ours, (tmp_path / "a.png", tmp_path / "a.svg")))
    strokes = BezierStrokes.from_svg((tmp_path / "a.svg").read_text())
    image = pixels("a.png")
    assert strokes.size == image.shape[1:] == (512, 512)
    assert len(strokes.segments) == 4
    assert float((strokes()[0].detach() - image).abs().mean()) < 1 / 255
    said = command(*words, "--out", "b.png", "--seed", 0)
    assert "seed 0" in said.err
    assert "did not guide" in said.out
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert command(*words, "--out", "c.png", "--seed", 1).code == 0
    assert (tmp_path / "a.svg").read_bytes() != (tmp_path / "c.svg").read_bytes()


def test_pixels_are_drawn_at_their_own_size_and_have_no_svg(
    command: Command, models: tuple[str, ...], tmp_path: Path
) -> None:
    done = command("draw", "a dog", *SMALL, *models, "--steps", 1, "--method", "pixels", "--out", "p.png", "--json")
    assert done.json()["svg"] is None
    assert Image.open("p.png").size == (32, 32)
    assert not (tmp_path / "p.svg").exists()


def test_figures_are_cosines_and_parts_of_the_other_texts(tiny_clip: Callable[[int], Path]) -> None:
    model = load(str(tiny_clip(1)))
    pictures = tuple(torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    others = other_texts("a red apple", 9)
    score = scored(model, pictures, "a red apple", others, guides=False)  # type: ignore[arg-type]
    with torch.no_grad():
        texts = model.encode_text(["a red apple", *others]).double()
        images = model.encode_image(torch.cat(pictures)).double()
    for row, (cosine, place) in enumerate([(score.before, score.place_before), (score.after, score.place)]):
        cosines = [float(images[row] @ text / images[row].norm() / text.norm()) for text in texts]
        assert cosine == pytest.approx(cosines[0], abs=1e-5)
        assert place == pytest.approx(np.mean([other < cosines[0] for other in cosines[1:]]))
    assert score.others == pytest.approx(np.mean(cosines[1:]), abs=1e-5)


def test_other_texts_are_as_long_and_no_two_runs_differ() -> None:
    for text in ("apple", "a red apple on a green table", "word " * 200):
        made = other_texts(text, 5)
        assert made == other_texts(text, 5) != other_texts(text, 5, seed=1)
        assert all(len(one.split()) >= len(text.split()) for one in made)
        assert text not in made


def listened(models: tuple[str, ...], out: Path, listener: Callable[[Event], object], **fields: Any) -> Any:
    given = {"text": "a tree", "model": models[1], "judge": models[3], "size": 32, "strokes": 4, "views": 1, **fields}
    return draw.run(draw.request(out=str(out), **given), progress=listener)


def test_codes_are_those_of_the_bundled_autoencoder_and_a_text_is_no_syntax(
    command: Command, models: tuple[str, ...]
) -> None:
    words = ["draw", "a dog | a cat:-1", *SMALL, *models, "--steps", 2, "--method", "vq"]
    document = command(*words, "--out", "v.png", "--json").json()
    assert document["guide"]["after"] > document["guide"]["before"]
    # a picture of codes is what the decoder makes of its nearest codes, which one of free pixels is not
    command(*[{"vq": "pixels"}.get(str(word), word) for word in words], "--out", "p.png")
    autoencoder = load_vq_autoencoder()

    def distance(name: str) -> float:
        picture = pixels(name)[None]
        with torch.no_grad():
            return float((autoencoder(picture * 2 - 1) / 2 + 0.5 - picture).abs().mean())

    assert distance("v.png") < 0.5 * distance("p.png")


def test_every_look_is_the_file_as_it_lies_there(models: tuple[str, ...], tmp_path: Path) -> None:
    out, seen, counts = tmp_path / "a.png", list[bytes](), list[int]()

    def hear(event: Event) -> None:
        if isinstance(event, Previewed):
            assert event.path == out
            (picture,) = event.render()
            assert np.array_equal(np.asarray(picture), np.asarray(Image.open(out)))
            assert BezierStrokes.from_svg(out.with_suffix(".svg").read_text()).size == picture.size
            seen.append(picture.tobytes())
        elif isinstance(event, Counted):
            counts.append(event.done)

    listened(models, out, hear, steps=3)
    assert counts == [1, 2, 3]
    assert len(set(seen)) == len(seen) == 4  # the first strokes, and each step
    assert not list(tmp_path.glob(".*"))


def test_a_long_run_is_looked_at_so_often() -> None:
    looks = Looks(lambda: pytest.fail("written"), 1000)
    assert looks.every == 1000 // LOOKS


def test_what_was_drawn_when_it_was_interrupted_stays(
    command: Command, models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Looks.after_step

    def interrupted(looks: Looks, step: int) -> None:
        after_step(looks, step)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Looks, "after_step", interrupted)
    done = command("draw", "a tree", *SMALL, *models, "--steps", 500, "--out", "cut.png")
    assert done.code == 130
    assert "interrupted after 3 of 500 steps: cut.png is the picture so far" in done.err
    monkeypatch.undo()
    strokes = BezierStrokes.from_svg((tmp_path / "cut.svg").read_text())
    assert float((strokes()[0].detach() - pixels(tmp_path / "cut.png")).abs().mean()) < 1 / 255
    first = BezierStrokes.random(4, (32, 32), seed=0).render((512, 512))[0]
    assert float((first - pixels(tmp_path / "cut.png")).abs().amax()) > 0.1, "nothing was drawn"


def test_two_hundred_words_and_one_step(command: Command, models: tuple[str, ...]) -> None:
    text = " ".join(random.Random(0).choices(["red", "apple", "tree", "sky", "a", "under"], k=200))
    done = command("draw", text, *SMALL, *models, "--steps", 1)
    assert done.code == 0, done.err
    assert "note:" in done.err  # that the model reads the beginning only


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([""], "TEXT is empty"),
        (["a cat", "--strokes", 0], "--strokes"),
        (["a cat", "--steps", 0], "--steps"),
        (["a cat", "--judge", "small"], "--judge small is the model that guides"),
        (["a cat", "--method", "vq", "--size", 30], "--size 30: --method vq needs a multiple of 4"),
        (["a cat", "--method", "chalk"], "--method 'chalk' is unknown: one of strokes"),
        (["a cat", "--out", "a.txt"], "a picture's name ends in"),
        (["a cat", "--out", "mine.png"], "mine.svg is there already"),
        (["a cat", "--model", "nothing"], "there is no model"),
    ],
)
def test_mistakes_are_said_before_any_work(command: Command, tmp_path: Path, words: list[object], text: str) -> None:
    (tmp_path / "mine.svg").write_text("<svg/>")
    done = command("draw", *words)
    assert done.code == 2
    assert text in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.svg"]


def test_who_judges_is_never_who_guides() -> None:
    assert draw.request(text="a").judged_by == "small-b"
    assert draw.request(text="a", model="small-b").judged_by == "small"
    assert draw.request(text="a", model="small-b", judge="everyday").judged_by == "everyday"


def test_a_method_is_one_entry(models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "dots", METHODS["pixels"])
    monkeypatch.setattr(request, "METHOD_NAMES", (*METHOD_NAMES, "dots"))
    said = list[str]()
    result = listened(
        models, tmp_path / "a.png", lambda event: said.append(event.message) if isinstance(event, Started) else None,
        method="dots", steps=1,
    )  # fmt: skip
    assert result.as_dict()["method"] == "dots"
    assert said == ["loading the models", "drawing", "judging the picture"]


def test_every_method_has_a_name_that_may_be_asked_for() -> None:
    assert tuple(METHODS) == METHOD_NAMES
