"""`binderclip trace` with the bundled tracer on a drawn tube."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import tube_pictures

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def tube(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    drawn = tube_pictures(900, 1, side=64, others=(0, 0), patches=(0, 0), background=["plain"])[0]
    path = tmp_path_factory.mktemp("tubes") / "vessel.png"
    Image.fromarray((drawn.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(path)
    return path, drawn


def test_the_line_lies_on_the_tube_and_every_file_is_written(command: Command, tube: tuple[Path, Any]) -> None:
    path, drawn = tube
    words = ("trace", path, "--from", "{},{}".format(*drawn.start), "--to", "{},{}".format(*drawn.end))
    found = command(*words, "--json").json()
    points = torch.tensor(found["points"])
    straight = torch.stack([torch.linspace(a, b, 40) for a, b in zip(drawn.start, drawn.end, strict=True)], 1)
    near, by_chance = (
        float((torch.cdist(line, drawn.line.flip(1).float()).amin(1) <= 2).float().mean())
        for line in (points, straight)
    )
    assert near > 0.8
    assert by_chance < 0.6
    kept = json.loads(Path(found["line"]).read_text())
    assert kept["points"] == found["points"]
    assert kept["through"] == [list(map(float, drawn.start)), list(map(float, drawn.end))]
    with Image.open(found["mask"]) as mask, Image.open(found["overlay"]) as overlay:
        assert mask.size == overlay.size == (64, 64)
        pixels = np.asarray(mask) > 0
    truth = drawn.own.numpy()
    assert (pixels & truth).sum() / (pixels | truth).sum() > 0.5
    shown = command(*words).out
    assert "pixels long" in shown
    # What was made before stays.
    assert "overlay vessel-traced-2.png" in shown
    assert "line vessel-trace-2.json" in shown


def test_bad_points_and_tracers_are_named(command: Command, tube: tuple[Path, Any]) -> None:
    path = tube[0]
    for words, said in [
        (("--from", "a,b", "--to", "3,3"), "--from 'a,b': write two numbers"),
        (("--from", "1,1", "--to", "64,3"), "point 64,3 is outside the picture of 64 x 64 pixels"),
        (("--from", "1,1", "--to", "1,1"), "points 1 and 2 fall on one pixel"),
        (("--from", "1,1", "--to", "9,9", "--tracer", "large"), "there is no tracer or folder 'large'"),
        (("--from", "1,1", "--to", "9,9", "--out", "gone/x.json"), "gone"),
    ]:
        done = command("trace", path, *words)
        assert done.code == 2, words
        assert said in done.err
    done = command("trace", "gone.png", "--from", "1,1", "--to", "2,2")
    assert done.code == 2
    assert "gone.png" in done.err


def test_a_piece_of_two_pixels_has_its_own_as_its_tube(command: Command, tube: tuple[Path, Any]) -> None:
    for end in ("6,5", "6,6"):
        found = command("trace", tube[0], "--from", "5,5", "--to", end, "--mask", "m.png", "--json").json()
        assert found["mask"] == "m.png"
        with Image.open("m.png") as mask:
            rows, columns = (np.asarray(mask) > 0).nonzero()
        assert list(zip(columns.tolist(), rows.tolist(), strict=True)) == [(5, 5), tuple(map(int, end.split(",")))]
