"""Every task gives the same document: asked by words, by `--from`, and by the line of Python."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip import tasks
from binderclip.documents import json_text
from binderclip.quality import IlluminationNet, create_detector, save_detector, save_enhancer
from binderclip.tasks import Request, VerbTask

Command = Callable[..., Any]


@dataclass(frozen=True)
class Inputs:
    """What requests are about.

    Attributes:
        folder: where a request may put further files that it reads.
        pictures: a folder of pictures of 32 x 32 to 64 x 50 pixels. model: a tiny one.
    """

    folder: Path
    pictures: Path
    model: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Callable[[int], Path]) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for name, size in (("a", (40, 32)), ("b", (32, 32)), ("-c", (64, 50))):
        Image.fromarray(rng.integers(60, 190, (*size, 3)).astype(np.uint8)).save(folder / f"pictures/{name}.png")
    return Inputs(folder, folder / "pictures", tiny_clip(1))


def anomaly(inputs: Inputs) -> Request:
    return tasks.anomaly.request(
        folder=inputs.pictures, name="noise", state=["{} with a hole", "broken {}"], scales=(1, 2), threshold=0.5,
        most=1, npy=True, model=inputs.model,
    )  # fmt: skip


def attack(inputs: Inputs) -> Request:
    return tasks.attack.request(
        model=inputs.model, images=[inputs.pictures], labels=["a cat", "a dog"], method="cw", eps="9/255", steps=2,
        target="a dog", out="attacked",
    )  # fmt: skip


def detect(inputs: Inputs) -> Request:
    detector = save_detector(
        create_detector("linear", str(inputs.model)), inputs.folder / "detector.safetensors", {"method": "linear"}
    )
    return tasks.detect.request(images=[inputs.pictures], detector=detector, maps="maps", most=1, csv="scores.csv")


def enhance(inputs: Inputs) -> Request:
    enhancer = save_enhancer(IlluminationNet(4, std=1e-4), inputs.folder / "enhancer.safetensors", {"method": "rave"})
    return tasks.enhance.request(images=[inputs.pictures], enhancer=enhancer, out="enhanced", max_side=40)


CASES: dict[str, Callable[[Inputs], Request]] = {case.__name__: case for case in (anomaly, attack, detect, enhance)}


def test_every_task_is_asked() -> None:
    assert set(CASES) == {name for name in tasks.__all__ if isinstance(getattr(tasks, name), VerbTask)}


@pytest.mark.parametrize("name", CASES)
def test_all_ways_to_ask_give_the_same_document(
    name: str, inputs: Inputs, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = CASES[name](inputs)
    assert type(request).from_document(json.loads(json_text(request.as_document()))) == request

    def words() -> Any:
        return command(*request.task.split(), *request.argv(), "--json").json()

    def document() -> Any:
        # What --json printed is a request as well.
        return command(*request.task.split(), "--from", documents[0], "--json").json()

    def python() -> Any:
        space: dict[str, Any] = {}
        exec(request.python().replace("print(", "found = (", 1), space)
        return json.loads(json_text(space["found"]))

    documents: list[Path] = []
    for way in (words, document, python):
        place = tmp_path / way.__name__
        place.mkdir()
        monkeypatch.chdir(place)
        found = way()
        documents.append(place / "document.json")
        documents[-1].write_text(json.dumps(found), encoding="utf-8")
    first, *others = [json.loads(path.read_text(encoding="utf-8")) for path in documents]
    assert type(request).from_document(first) == request
    assert all(other == first for other in others)
