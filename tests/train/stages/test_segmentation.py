"""A segmentation head as a stage: learned from label maps, measured on pictures held out, opened by the verb."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.models import load
from binderclip.segment import open_head
from binderclip.train import Recipe, run

TINY = {
    "mta-clip": {
        "queries": 4, "width": 16, "layers": 1, "heads": 2, "hidden": 32, "prompts": 1, "n_ctx": 2, "blocks": 0,
    },
    "cascade": {"prompts": 1, "layers": 1, "heads": 2, "groups": [[3]]},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of a red and a blue part with label maps, one broken."""
    root = tmp_path_factory.mktemp("parts")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("red\nblue\n")
    for row in range(12):
        labels = np.zeros((40, 50), np.uint8)
        labels[:, 10 + 2 * row :] = 1
        colours = np.array([[220, 20, 20], [20, 20, 220]], np.uint8)[labels]
        Image.fromarray(colours).save(root / "images" / f"{row:02d}.png")
        Image.fromarray(labels).save(root / "labels" / f"{row:02d}.png")
    (root / "images" / "03.png").write_bytes(b"no picture")
    return root


def recipe(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    head = {"name": name, "size": 64, **TINY[name]}
    data = [{"name": "label-maps", "hold_out": 0.4, "options": {"source": str(folder)}}]
    document: dict[str, Any] = {
        "model": "small", "data": data, "batch_size": 4, "samples": 12, "lr": 1e-3, "evaluation": {},
        "stage": [{"name": "head", "kind": {"name": "segmentation-head", "head": head}}],
    }  # fmt: skip
    return document | changes


@pytest.mark.parametrize("name", ["mta-clip", "cascade"])
def test_a_head_is_trained_measured_and_saved(folder: Path, tmp_path: Path, name: str) -> None:
    result = run(Recipe.from_dict(recipe(folder, name)), out=tmp_path / "run", progress=False)
    summary = json.loads((result.out / "summary.json").read_text())
    notes = summary["stages"][0]["notes"]
    assert notes["pictures"] + notes["held out"]["pictures"] == 11
    assert 0 < notes["held out"]["pictures"] < 11
    assert 0 <= notes["held out"]["mIoU"] <= 1
    assert [Path(key).name for key, _ in summary["skipped"]] == ["03.png"]
    assert summary["stages"][0]["steps"] == 3
    # What the stage does not change is not measured again and taken for its result.
    assert (summary["figures"], summary["stages"][0]["evaluations"]) == ({}, [])
    head = open_head(result.out / "stages/00-head/head")
    assert head.segment(folder / "images" / "00.png", ["red", "blue"]).labels.shape == (40, 50)
    # The model itself is what it was.
    for key, value in load("small").backbone.state_dict().items():
        torch.testing.assert_close(load(result.out / "model").backbone.state_dict()[key], value, rtol=0, atol=0)
        break


def test_a_run_that_stopped_goes_on_to_the_same_head(folder: Path, tmp_path: Path) -> None:
    whole = run(
        Recipe.from_dict(recipe(folder, "mta-clip", checkpoint_every=1)), out=tmp_path / "whole", progress=False
    )
    half = recipe(folder, "mta-clip", checkpoint_every=1)

    class Stopped(RuntimeError):
        pass

    from binderclip.segment.trained.task import RowBatches

    original = RowBatches.__iter__

    def stopping(self: Any) -> Any:
        for number, rows in original(self):
            if number == 2 and not self.first:
                raise Stopped
            yield number, rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowBatches, "__iter__", stopping)
        with pytest.raises(Stopped):
            run(Recipe.from_dict(half), out=tmp_path / "part", progress=False)
    part = run(Recipe.from_dict(half), out=tmp_path / "part", progress=False, resume=True)
    ours, theirs = (open_head(each.out / "stages/00-head/head").state_dict() for each in (part, whole))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_what_cannot_be_trained_is_said(folder: Path, tmp_path: Path) -> None:
    for kind, said in (
        ({"head": "mask-rcnn"}, "unknown head"),
        ({"head": {"name": "cascade", "queries": 3}}, "no setting"),
        ({"head": "cascade", "training": {"negatives": "mixed"}}, "no setting"),
    ):
        stage = [{"name": "head", "kind": {"name": "segmentation-head", **kind}}]
        with pytest.raises(UsageError, match=said):
            Recipe.from_dict(recipe(folder, "cascade", stage=stage))
    everything = [{"name": "label-maps", "hold_out": 0.999, "options": {"source": str(folder)}}]
    with pytest.raises(DataError, match="no picture to learn from"):
        run(Recipe.from_dict(recipe(folder, "cascade", data=everything)), out=tmp_path / "out", progress=False)


def test_the_verb_opens_what_the_stage_left(command: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    named = recipe(folder, "mta-clip", data=[str(folder)])  # a folder by its name, as --data gives it
    result = run(Recipe.from_dict(named), out=tmp_path / "run", progress=False)
    head = result.out / "stages/00-head/head"
    done = command("segment-head", folder / "images" / "00.png", "--head", head, "--json")
    assert done.code == 0, done.err
    assert done.json()["classes"] == ["red", "blue"]
    assert command("segment-head", folder / "images" / "00.png", "--head", head, "-l", "green").code != 0
    for wrong, said in (
        ((), "Missing argument"),
        ((folder / "images" / "00.png", "--preset", "value"), "No such option"),
    ):
        refused = command("segment-head", *wrong, "--head", head)
        assert refused.code != 0
        assert said in refused.err
    none = command("segment-head", folder / "images" / "00.png", "--head", tmp_path / "none")
    assert "--head: there is no folder" in none.err


def test_folders_that_are_no_head_are_named(command: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    picture = folder / "images" / "00.png"
    for config, said in (("{}", "no model of this format"), ('{"binderclip": {"kind": "vision"}}', "'vision' model")):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "config.json").write_text(config)
        refused = command("segment-head", picture, "--head", tmp_path / "other", "-l", "red,blue")
        assert refused.code != 0
        assert said in " ".join(refused.err.split())
    found = command("segment-head", picture, "--head", tmp_path / "other", "-l", "red,blue", "--device", "nowhere")
    assert "device 'nowhere' is unknown" in found.err


def test_the_head_keeps_which_classes_it_saw(folder: Path, tmp_path: Path) -> None:
    """p077: seen classes lose 0.1 of their probability, also for whoever opens the folder; by hand from the logits."""
    from binderclip.data import open_image
    from binderclip.models.files.folders import folder_config

    stage = [{"name": "head", "kind": {"name": "segmentation-head", "head": {"name": "cascade", **TINY["cascade"]},
                                       "training": {"unseen": ["blue"]}}}]  # fmt: skip
    result = run(Recipe.from_dict(recipe(folder, "cascade", stage=stage)), out=tmp_path / "run", progress=False)
    left = result.out / "stages/00-head/head"
    assert folder_config(left)["seen"] == ["red"]
    head, picture = open_head(left), folder / "images" / "00.png"
    with torch.no_grad():
        _, _, full = head.scored(open_image(picture), lambda pixels: head(pixels, head.text_of(["red", "blue"])))
        probability = full.sigmoid()
    expected = (probability[0] - 0.1 < probability[1]).int()
    found = head.segment(picture, ["red", "blue"])
    assert torch.equal(found.labels.int(), expected)
    plain = head.segment(picture, ["red", "blue"], seen=())
    assert torch.equal(plain.labels.int(), (probability[0] < probability[1]).int())
    assert torch.equal(head.segment(picture, ["blue", "red"]).labels.int(), 1 - expected)


def test_the_verb_prints_the_heads_figures(command: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    from binderclip.settings import write_toml

    (tmp_path / "r.toml").write_text(write_toml(recipe(folder, "cascade")))
    done = command("train", tmp_path / "r.toml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    held = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"][0]["notes"]["held out"]
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert f"head mIoU {held['mIoU']:.3f} {held['pictures']}" in rows
    assert "R@1" not in done.out
