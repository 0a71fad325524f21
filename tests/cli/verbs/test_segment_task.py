"""`binderclip segment-task` on a folder, with tiny models of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip import models
from binderclip.data.formats.run_lengths import from_run_lengths
from binderclip.models import build
from binderclip.segment.promptable import PromptModel, PromptNetwork
from binderclip.segment.task import TASK_METHODS, CandidateMasks, TaskMask, TaskRound, gensam

Command = Callable[..., Any]
SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}
WORDS = ("--labels", "owl,fox,snake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("task") / "tiny"
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval().save(place)
    return place


@pytest.fixture(scope="module")
def clip() -> Any:
    torch.manual_seed(0)
    return build(
        {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        },
        name="tiny",
    ).eval()


@pytest.fixture
def photos(tmp_path: Path, clip: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "load", lambda *a, **k: clip)
    place = tmp_path / "photos"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(place / f"{name}.png")
    return place


def test_the_masks_are_the_librarys_and_the_words_are_said(
    command: Command, folder: Path, photos: Path, clip: Any
) -> None:
    words = ("segment-task", photos / "a.png", "--task", "the hidden animal", *WORDS, "--segmenter", folder)
    found = command(*words, "--json").json()
    want = gensam(clip, PromptModel.open(folder), ["owl", "fox", "snake"])(photos / "a.png", "the hidden animal")
    entry = found["images"][0]
    assert entry["words"] == list(want.words)
    assert np.array_equal(np.asarray(Image.open(entry["mask"])) > 0, want.mask.numpy())
    assert entry["words"][0] in command(*words).out
    assert len(entry["words_by_round"]) == entry["rounds"] == 6


def test_a_folder_is_gone_on_with(command: Command, folder: Path, photos: Path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    words = ("segment-task", photos, "--task", "every animal", *WORDS, "--segmenter", folder, "--method", "int")
    first = command(*words, "--coco", "all.json", "--json").json()
    assert [Path(one["image"]).name for one in first["images"]] == ["a.png", "c.png"]
    assert [Path(one["image"]).name for one in first["skipped"]] == ["b.png"]
    assert len(json.loads(Path("all.json").read_text())["images"]) == 2
    assert "2 pictures done before" in command(*words).err
    assert "done before" not in command(*words[:3], "the snake", *words[4:]).err


def test_other_methods_and_mistakes(command: Command, folder: Path, photos: Path) -> None:
    picture = photos / "a.png"
    done = command("segment-task", picture, "--task", "fox", "--method", "slip", "--segmenter", folder, "--json")
    assert done.json()["images"][0]["words"] == ["fox"]
    assert "masks from its own 0.5 count" in done.err
    for options, message in [
        (("--task", " "), "--task is empty"),
        (("--task", "x", "--method", "oracle"), "gensam, int, slip, zip"),
        (("--task", "x", "--ask", "http://localhost"), "go together"),
        (("--task", "every"), "names nothing"),
        (("--task", "x", "--set", "drop_largest=false"), "gensam has no such setting; it has backgrounds, rounds"),
        (("--task", "x", "--set", "rounds=many"), "must be a whole number"),
        (("--task", "x", "--method", "slip", "--set", "drop_largest=1"), "must be true or false"),
        (("--labels", "cat"), "Missing option '--task'"),
        (("--task", "x", "--ask", "ftp://x", "--ask-model", "m"), "is no address"),
    ]:
        done = command("segment-task", picture, *options)
        assert done.code == 2, done.err
        assert message in done.err


class Instances:
    """In the place of Zip: two foxes that touch, the right one surer, and an owl."""

    def __init__(self, *names: str) -> None:
        self.names, self.loop = names, None

    def __call__(self, picture: Any, task: str) -> TaskMask:
        masks = torch.zeros(3, 30, 44, dtype=torch.bool)
        masks[0, 4:14, 10:20], masks[1, 4:14, 2:10], masks[2, 20:26, 30:40] = True, True, True
        rows = [number for number, name in enumerate(("fox", "fox", "owl")) if name in self.names]
        logits = torch.where(masks[rows], 5.0, -5.0)
        names = tuple(("fox", "fox", "owl")[number] for number in rows)
        kept = CandidateMasks(logits, torch.tensor([0.9, 0.5, 0.4])[rows], names)
        probs = logits.sigmoid().amax(0) if rows else torch.zeros(30, 44)
        return TaskMask(probs > 0.5, (TaskRound((), None, probs, kept),), 0)


def test_zip_writes_instances_with_classes_and_scores(
    command: Command, folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The union of both foxes is one region: as connected regions of a mask they could not be told apart."""
    made = Instances("fox", "owl")
    monkeypatch.setitem(TASK_METHODS, "zip", lambda model, segmenter, vocabulary, *, k=10: made)
    words = ("segment-task", photos, "--task", "every animal", "--method", "zip", *WORDS, "--segmenter", folder)
    done = command(*words, "--coco", "all.json", "--json").json()
    first = done["images"][0]
    assert [(own["class"], own["score"], own["bbox"]) for own in first["instances"]] == [
        ("fox", 0.9, [10, 4, 10, 10]), ("fox", 0.5, [2, 4, 8, 10]), ("owl", 0.4, [30, 20, 10, 6]),
    ]  # fmt: skip
    document = json.loads(Path("all.json").read_text())
    assert [own["name"] for own in document["categories"]] == ["fox", "owl"]
    found = document["annotations"]
    assert [(own["image_id"], own["category_id"], own["score"], own["area"]) for own in found] == [
        (image, *own) for image in (1, 2, 3) for own in ((1, 0.9, 100), (1, 0.5, 80), (2, 0.4, 60))
    ]
    assert [own["id"] for own in found] == list(range(1, 10))
    mask = from_run_lengths(found[1]["segmentation"]["counts"], (30, 44))
    assert mask[4:14, 2:10].all()
    assert mask.sum() == 80
    said = command(*words)
    assert "3 pictures done before" in said.err
    assert "fox x 2, owl x 1" in said.out
    # an answer without an instance is one as well
    made.names = ()
    done = command(*words, "--redo", "--coco", "none.json", "--json").json()
    assert done["images"][0]["instances"] == []
    assert json.loads(Path("none.json").read_text())["annotations"] == []


def test_a_sentence_reaches_every_method(command: Command, folder: Path, photos: Path) -> None:
    """Whatever the model of random weights would like best, the sentence says what it is."""
    for word in ("owl", "snake"):
        for method in ("gensam", "int", "zip"):
            setting = "k=2" if method == "zip" else "rounds=1"
            options = ("--method", method, *WORDS, "--segmenter", folder, "--set", setting)
            done = command("segment-task", photos / "a.png", "--task", f"the {word}", *options, "--json")
            assert set(done.json()["images"][0]["words"]) <= {word}
            assert f"of which the task means {word}" in done.err


def test_slips_hint_can_be_followed(command: Command, folder: Path, photos: Path) -> None:
    words = ("segment-task", photos / "a.png", "--task", "the fox", "--method", "slip", "--segmenter", folder, "--json")
    plain = command(*words, "--set", "points_per_side=2", "--set", "pred_iou_thresh=0.0").json()["images"][0]
    kept = command(*words, "--set", "points_per_side=2", "--set", "pred_iou_thresh=0.0", "--set", "drop_largest=False")
    assert kept.json()["images"][0]["share"] >= plain["share"]
