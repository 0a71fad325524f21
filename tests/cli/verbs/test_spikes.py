"""`binderclip spikes` on a run of `binderclip train` and on a log of the user's own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from binderclip.optim import METHODS, ClipLog, NormClip

Command = Callable[..., Any]


def watched(folder: Path, *, skip: bool = True) -> list[float]:
    """A log of 60 steps with spikes at 21 and 41, the second one caused by `bias`, and a NaN at 51."""
    chance = np.random.default_rng(0)
    parts = {"weight": nn.Parameter(torch.ones(4)), "bias": nn.Parameter(torch.ones(1))}
    log = ClipLog(NormClip(3.0, nonfinite="skip"), out=folder)
    norms = []
    for step in range(1, 61):
        weight, bias = abs(1 + 0.1 * chance.standard_normal()), 0.1
        if step == 21:
            weight *= 20
        if step == 41:
            bias = 30.0
        if step == 51 and skip:
            bias = math.nan
        parts["weight"].grad = torch.full((4,), weight / 2)
        parts["bias"].grad = torch.full((1,), bias)
        log(parts.items())
        norms.append(math.hypot(weight, bias))
    log.close()
    return norms


def test_a_log_of_ones_own_through_the_installed_program(program: Command, tmp_path: Path) -> None:
    norms = watched(tmp_path / "mine")
    done = program("spikes", "mine", "--top", 1, "--json", cwd=tmp_path)
    found = done.json()
    (stage,) = found["stages"]
    assert (stage["steps"], stage["clipped"], stage["skipped"]) == (60, 2, 1)
    assert [spike["step"] for spike in stage["spikes"]] == [21, 41, 51]
    first, second, gone = stage["spikes"]
    for spike in (first, second):
        step = spike["step"]
        assert spike["norm"] == pytest.approx(norms[step - 1], rel=1e-5)
        assert spike["usual"] == pytest.approx(np.median(norms[step - 21 : step - 1]), rel=1e-5)
        assert spike["ratio"] == pytest.approx(spike["norm"] / spike["usual"], rel=1e-5)
        assert spike["kept"] == pytest.approx(3.0 / norms[step - 1], rel=1e-4)
        assert spike["limit"] == 3.0
        assert len(spike["top"]) == 1
    assert first["top"][0]["name"] == "weight"
    assert second["top"][0]["name"] == "bias"
    assert second["top"][0]["share"] == pytest.approx((30.0 / norms[40]) ** 2, rel=1e-4)
    assert (gone["norm"], gone["skipped"], gone["kept"], gone["top"][0]["name"]) == (None, True, 0.0, "bias")
    with Image.open(tmp_path / "mine" / "spikes.png") as picture:
        assert picture.width > 800


def test_the_table_for_people(command: Command, tmp_path: Path) -> None:
    norms = watched(tmp_path / "mine")
    done = command("spikes", "mine", "--picture", "other.png")
    assert done.code == 0, done.err
    assert "mine: 3 spikes in 60 steps, 3.3% clipped, 1 skipped" in done.out
    assert "NormClip" in done.out
    (line,) = [line for line in done.out.splitlines() if line.strip().startswith("41 ")]
    assert f"{norms[40]:.3g}" in line
    assert "3" in line.split()
    assert f"{3 / norms[40]:.1%}" in line
    assert "bias 100%, weight 0%" in line
    (line,) = [line for line in done.out.splitlines() if line.strip().startswith("51 ")]
    assert "not finite" in line
    assert "skipped" in line
    assert (tmp_path / "other.png").is_file()
    assert not (tmp_path / "mine" / "spikes.png").exists()


def test_a_run_of_train_has_its_stages(command: Command, recipe: Path, tmp_path: Path) -> None:
    words = ("--set", "stage.0.clip={name='zclip',warmup_steps=2}", "--out", "run")
    assert command("train", recipe, *words).code == 0
    found = command("spikes", "run", "--json").json()
    (stage,) = found["stages"]
    assert stage["stage"] == "train"
    assert stage["steps"] == json.loads((tmp_path / "run" / "summary.json").read_text())["stages"][0]["steps"]
    assert "ZClip" in stage["clips"][0]
    norms = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = (tmp_path / "run" / "clipping" / "00-train" / "clip.jsonl").read_text().splitlines()[1:]
    for row, figures in zip(map(json.loads, rows), [n for n in norms if "grad_norm" in n], strict=True):
        assert row["norm"] == pytest.approx(figures["grad_norm"], rel=1e-5)
        assert row["scale"] == pytest.approx(figures["clip_scale"], rel=1e-5)
    assert (tmp_path / "run" / "spikes.png").is_file()
    done = command("spikes", "run")
    assert "stage train: no spikes in 6 steps" in done.out
    # a log that a run of before had not
    for path in (tmp_path / "run" / "clipping" / "00-train").iterdir():
        path.unlink()
    done = command("spikes", "run")
    assert done.code == 1
    assert "run holds no record of clipping: it was trained before" in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none",), 2, "there is no folder none"),
        (("file.txt",), 2, "file.txt is a file"),
        (("empty",), 1, "is no run of `binderclip train`, and no ClipLog(out=...) wrote there"),
        (("broken",), 1, "is not a record of clipping"),
        (("fresh",), 1, "nothing was recorded"),
        (("mine", "--top", "0"), 2, "Invalid value for '--top'"),
        (("mine", "--picture", "none/x.png"), 2, "there is no folder none"),
        (("mine", "--picture", "x.txt"), 2, "a picture's name ends in"),
    ],
)
def test_one_line_says_what_is_wrong(
    command: Command, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "file.txt").write_text("")
    for folder in ("empty", "broken", "fresh", "mine"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "clip.jsonl").write_text("nonsense\n")
    (tmp_path / "fresh" / "clip.jsonl").write_text('{"clips": ["NormClip"], "whole": true}\n')
    if words[0] == "mine":
        watched(tmp_path / "mine")
    done = command("spikes", *words)
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.strip()) < 600


def test_train_offers_every_method(command: Command) -> None:
    shown = " ".join(command("train", "--help").out.split())
    assert all(name in shown for name in METHODS)


def changed(folder: Path, name: str, line: int, **entries: object) -> Path:
    """A copy of a log with one line that says something else."""
    lines = [json.loads(text) for text in (folder / "clip.jsonl").read_text().splitlines()]
    lines[line].update(entries)
    (folder.parent / name).mkdir()
    (folder.parent / name / "clip.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder.parent / name


@pytest.mark.parametrize(
    ("line", "entries", "said"),
    [
        (5, {"step": 10**39}, "is no number of a step"),
        (5, {"step": -1}, "is no number of a step"),
        (5, {"step": "7"}, "is no number of a step"),
        (0, {"clips": [1, None]}, "not a list of texts"),
        (0, {"clips": "norm"}, "not a list of texts"),
        (5, {"norm": "large"}, "could not be read as a number: 'large'"),
    ],
)
def test_a_damaged_log_is_named(
    command: Command, tmp_path: Path, line: int, entries: dict[str, object], said: str
) -> None:
    watched(tmp_path / "mine")
    done = command("spikes", changed(tmp_path / "mine", "other", line, **entries))
    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize("norm", [1e300, 1e-300, 1.7e308, 5e-324])
def test_norms_at_the_ends_of_the_numbers_are_drawn(command: Command, tmp_path: Path, norm: float) -> None:
    watched(tmp_path / "mine")
    done = command("spikes", changed(tmp_path / "mine", "other", 30, norm=norm), "--json")
    assert done.code == 0, done.err
    with Image.open(done.json()["picture"]) as picture:
        assert picture.height > 300


def test_a_folder_whose_name_is_no_text(command: Command, tmp_path: Path) -> None:
    watched(tmp_path / "caf\udce9")
    done = command("spikes", tmp_path / "caf\udce9", "--json")
    assert done.code == 0, done.err
    assert (tmp_path / "caf\udce9" / "spikes.png").is_file()
