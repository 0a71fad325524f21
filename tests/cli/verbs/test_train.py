"""`binderclip train --data`: a user's own pictures, a tenth of them held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.data import load_data
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.recipe import DataSpec

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty emoji in two folders, one a class; one picture is there twice."""
    root = tmp_path_factory.mktemp("own") / "pets"
    data = load_data("noto-emoji", split="train")
    for number in range(40):
        folder = root / ("first" if number % 2 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        data[number if number < 39 else 0].image.convert("RGB").resize((32, 32)).save(folder / f"{number}.png")
    return root


def sides(own: Path, share: float) -> tuple[Any, Any]:
    specs = [DataSpec.model_validate({"name": str(own), "split": s, "hold_out": share}) for s in ("train", "val")]
    (learned, held), _ = open_sources(specs)
    return learned, held


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_is_held_out_is_not_learned_from(own: Path, share: float) -> None:
    learned, held = sides(own, share)
    assert len(learned) + len(held) == 40
    assert abs(len(held) - 40 * share) <= 1
    hashes = [{data.content_hash(row) for row in range(len(data))} for data in (learned, held)]
    # Also by content: the picture that is there twice is on one side only.
    assert not hashes[0] & hashes[1]
    assert [data.keys for data in sides(own, share)] == [learned.keys, held.keys]


def test_without_hold_out_a_folder_is_taken_whole(own: Path) -> None:
    assert [len(side) for side in sides(own, 0.0)] == [40, 40]


def test_own_pictures_take_the_place_of_a_recipes(command: Command, own: Path) -> None:
    document = command("train", "--data", own, "--check", "--json").json()
    assert (document["name"], document["model"]) == ("finetune", "small")
    stage = document["stage"][0]
    assert stage["data"][0] | {"name": str(own), "hold_out": 0.1} == stage["data"][0]
    assert document["evaluation"]["data"][0] | {"split": "val", "hold_out": 0.1} == document["evaluation"]["data"][0]
    # A batch is never more than there is to learn from.
    assert stage["batch_size"] == len(sides(own, 0.1)[0]) < 64
    other = command("train", "scratch-64", "--data", own, "--check", "--json", "-s", "stage.batch_size=8").json()
    assert other["name"] == "scratch-64"
    assert other["stage"][0]["batch_size"] == 8
    assert [source["name"] for source in other["stage"][0]["data"]] == [str(own)]


def test_own_pictures_are_learned_and_measured(command: Command, own: Path, recipe: Path) -> None:
    done = command("train", recipe, "--data", own, "--out", "run", "--json", "-s", "stage.samples=64")
    document = done.json()
    assert any(name.startswith("pets") for name in document["figures"]) or "zero_shot" in str(document)
    assert Path("run/model").is_dir()


def test_mistakes_of_own_data_are_named(command: Command, tmp_path: Path, own: Path) -> None:
    (tmp_path / "few").mkdir()
    for path in sorted((own / "first").iterdir())[:2]:
        (tmp_path / "few" / "cat").mkdir(exist_ok=True)
        (tmp_path / "few" / "cat" / path.name).write_bytes(path.read_bytes())
    for words, code, said in [
        (("train",), 2, "give a recipe, such as `train scratch-64`, or your own pictures"),
        (("train", "--data", "nowhere"), 2, "no data set 'nowhere'"),
        (("train", "--data", "few"), 2, "2 pictures, too few to train on"),
    ]:
        done = command(*words)
        assert (done.code, said in done.err) == (code, True), done.err


PLAN = ("train", "scratch-64", "--plan", "--samples", "1e9", "--machines", 8, "--flops", "1e13", "--memory", 80)


def test_a_plan_needs_no_data(command: Command, tmp_path: Path) -> None:
    found = command(*PLAN, "--json").json()
    assert [one["name"] for one in found["passes"]] == ["train"]
    assert found["passes"][0]["passes"] == pytest.approx(4)
    assert found["passes"][0]["bytes_read"] == pytest.approx(4e9 * 30_000, rel=1e-6)
    assert not list(tmp_path.iterdir())
    longer = command(*PLAN, "--set", "stage.epochs=8", "--json").json()
    assert longer["hours"] == pytest.approx(2 * found["hours"])
    shown = command(*PLAN, "--out", "there")
    assert "together" in shown.out
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["plan.html", "plan.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "scratch-64", "--plan"), "--samples 1e9"),
        (("train", "--plan", "--samples", "5"), "a plan needs a recipe"),
        (("train", "scratch-64", "--data", "x", "--plan", "--samples", "5"), "a plan needs a recipe"),
        (("train", "scratch-64", "--flops", "5"), "--flops belongs to a plan"),
        (("train", "--grid", "x.toml", "--plan"), "not a grid"),
        (("train", "--grid", "x.toml", "--samples", "5"), "--samples belongs to a plan"),
        ((*PLAN, "--as", "open_clip"), "--as does not go with --plan"),
        ((*PLAN, "--check"), "--check does not go with --plan"),
        ((*PLAN, "--flops", "0"), "--flops"),
        ((*PLAN, "--samples", "nan"), "--samples"),
        ((*PLAN, "--machines", "0"), "--machines"),
        ((*PLAN, "--parallel", "x"), "parallel is ddp or fsdp"),
    ],
)
def test_plans_that_cannot_be(command: Command, tmp_path: Path, words: tuple[Any, ...], said: str) -> None:
    done = command(*words)
    assert (done.code, said in " ".join(done.err.split())) == (2, True), done.err
    assert not list(tmp_path.iterdir())
