"""`binderclip translate`: a network of two folders, going on where it stopped, and pictures through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import CheckpointError
from binderclip.fit import Diverged
from binderclip.generate import load_translator
from binderclip.tasks import translate
from binderclip.tasks.events import Counted, Event, Saved, Stopped, StopToken
from binderclip.tasks.verbs.translate import train

Command = Callable[..., Any]
SMALL = {"side": 16, "width": 4, "blocks": 3, "steps": 8, "seed": 1}
WORDS = ["--side", "16", "--width", "4", "--blocks", "3", "--steps", "8", "--seed", "1"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Dark pictures and bright ones, and a broken file among the first."""
    rng = np.random.default_rng(0)
    places = tmp_path / "dark", tmp_path / "bright"
    for place, (low, high) in zip(places, ((0, 90), (160, 255)), strict=True):
        place.mkdir()
        for row in range(3):
            Image.fromarray(rng.integers(low, high, (20, 24, 3), dtype=np.uint8)).save(place / f"{row}.png")
    (places[0] / "broken.png").write_bytes((places[0] / "0.png").read_bytes()[:60])
    return places


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_translator(folder)[0].state_dict()


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_network_is_trained_and_translates_others(
    command: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    net, out = tmp_path / "net", tmp_path / "out"
    done = command("translate", *folders, "--out", net, *WORDS, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert document["training"]["method"] == "fastcut"
    assert (document["training"]["a"], document["training"]["b"], document["training"]["steps"]) == (3, 3, 8)
    assert [Path(entry["image"]).name for entry in document["skipped"]] == ["broken.png"]
    with Image.open(net / "samples.png") as sheet:
        assert sheet.width > 400
    result = command("translate", folders[0], "--model", net, "--out", out, "--max-side", "16", "--json")
    assert result.code == 0, result.err
    rows = result.json()["images"]
    assert [(Path(row["result"]).name, row["width"], row["height"]) for row in rows] == [
        (f"{row}.png", 16, 13) for row in range(3)
    ]
    assert [Path(entry["image"]).name for entry in result.json()["skipped"]] == ["broken.png"]
    shown = command("translate", *folders, "--out", tmp_path / "again", *WORDS).out
    assert shown.splitlines()[4].split() == ["8", "16", "4", "3", "2", "0.0004"]
    assert (out / "before-after.png").is_file()


def test_a_stopped_training_keeps_its_network_and_goes_on_exactly(folders: tuple[Path, Path], tmp_path: Path) -> None:
    stop, counts = StopToken(), []

    def listen(event: Event) -> None:
        if isinstance(event, Counted):
            counts.append(event.done)
            if event.done == 5:
                stop.stop()

    request = translate.request(images=[str(place) for place in folders], out=str(tmp_path / "net"), **SMALL)
    with pytest.raises(Stopped):
        translate.run(request, progress=listen, stop=stop)
    _, card = load_translator(tmp_path / "net")
    assert 5 <= card["steps"] < 8
    translate.run(request)
    whole = translate.request(images=[str(place) for place in folders], out=str(tmp_path / "whole"), **SMALL)
    saved: list[Path] = []
    translate.run(whole, progress=lambda event: saved.append(event.path) if isinstance(event, Saved) else None)
    assert same(tmp_path / "net", tmp_path / "whole")
    assert load_translator(tmp_path / "net")[1]["steps"] == 8
    assert sum(path.name == "samples.png" for path in saved) > 2  # the sheet is written again as it learns
    other = request.replaced(lr=0.01)
    with pytest.raises(CheckpointError, match="lr"):
        translate.run(other)


def test_one_picture_on_each_side_is_sincut(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images = [str(tmp_path / name) for name in ("one", "another")]
    for place, source in zip(images, folders, strict=True):
        Path(place).mkdir()
        (Path(place) / "0.png").write_bytes((source / "0.png").read_bytes())
    result = translate(images=images, out=str(tmp_path / "net"), **{**SMALL, "steps": 2})
    assert result.card["method"] == "sincut"


def test_what_cannot_be_learned_from_is_said(
    command: Command, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        ([folders[0], tmp_path / "empty"], "no picture"),
        ([folders[0]], "two folders are needed"),
        ([folders[0], folders[1] / "0.png"], "is no folder"),
        ([folders[0], tmp_path / "nowhere"], "nowhere"),
        ([folders[0], "--model", tmp_path / "empty"], "card.json"),
    ]
    for words, part in cases:
        done = command("translate", *words, "--out", tmp_path / "net", *WORDS)
        assert done.code != 0
        assert part in done.err, done.err
        assert not (tmp_path / "net" / "weights.safetensors").exists()
    draw = train.FolderPairs._drawn
    monkeypatch.setattr(train.FolderPairs, "_drawn", lambda self, *given: draw(self, *given) * float("nan"))
    request = translate.request(images=[str(place) for place in folders], out=str(tmp_path / "nan"), **SMALL)
    with pytest.raises(Diverged, match="not finite"):
        translate.run(request)
    assert not (tmp_path / "nan" / "weights.safetensors").exists()
