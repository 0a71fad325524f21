"""`binderclip masks` with a tiny promptable model of random weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.segment import AutomaticMasks, Prompts, load_promptable
from binderclip.segment.promptable import PromptModel, PromptNetwork

Command = Callable[..., Any]
SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}
LOOSE = ("--points-per-side", "4", "--pred-iou-thresh", "-9", "--stability-score-thresh", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("masks") / "tiny"
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval().save(place)
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(place / f"{name}.png")
    return place


def test_the_coco_file_holds_the_masks_of_the_library(command: Command, folder: Path, photos: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    found = command("masks", photos / "a.png", "-m", folder, *LOOSE, "--json").json()
    want = AutomaticMasks(
        load_promptable(folder), points_per_side=4, pred_iou_thresh=-9, stability_score_thresh=0
    )(photos / "a.png")  # fmt: skip
    assert found["images"][0]["masks"] == len(want) > 0
    read = coco.COCO(found["coco"])
    entries = read.loadAnns(read.getAnnIds())
    for entry, mask, box in zip(entries, want.masks, want.boxes, strict=True):
        assert np.array_equal(read.annToMask(entry).astype(bool), mask.numpy())
        x0, y0, x1, y1 = box.tolist()
        assert entry["bbox"] == [x0, y0, x1 - x0, y1 - y0]
    with Image.open(found["images"][0]["overlay"]) as overlay:
        assert overlay.size == (44, 30)


def test_a_folder_is_gone_on_with_and_a_broken_picture_is_left_out(
    command: Command, folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    words = ("masks", photos, "-m", folder, *LOOSE)
    first = command(*words, "--json").json()
    assert [Path(one["image"]).name for one in first["images"]] == ["a.png", "c.png"]
    assert [Path(one["image"]).name for one in first["skipped"]] == ["b.png"]
    document = json.loads(Path(first["coco"]).read_text())
    assert [image["file_name"] for image in document["images"]] == [str(photos / "a.png"), str(photos / "c.png")]
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))

    encoded = []
    encode = PromptModel.encode
    monkeypatch.setattr(PromptModel, "encode", lambda self, image: encoded.append(1) or encode(self, image))
    Image.new("RGB", (40, 40), "teal").save(photos / "b.png")
    again = command(*words)
    assert len(encoded) == 1  # only what was not done
    assert "2 pictures done before" in again.err
    assert command(*words, "--json").json()["skipped"] == []
    command(*words, "--points-per-batch", "3")  # says nothing about the result
    assert len(encoded) == 1
    command(*words, "--points-per-side", "3")
    assert len(encoded) == 4
    command(*words, "--redo")
    assert len(encoded) == 7


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_checkpoints_that_transformers_saved_are_opened_by_path(
    command: Command, photos: Path, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("transformers")
    place = Path(__file__).parents[2] / "segment/promptable/hf_models.py"
    spec = importlib.util.spec_from_file_location("hf_models", place)
    assert spec is not None
    assert spec.loader is not None
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    torch.manual_seed(0)
    for part in getattr(models, kind)():
        part.save_pretrained(tmp_path / kind)
    opened = load_promptable(tmp_path / kind)
    want = AutomaticMasks(opened, points_per_side=4, pred_iou_thresh=-9, stability_score_thresh=0)(photos / "a.png")
    found = command("masks", photos / "a.png", "-m", tmp_path / kind, *LOOSE, "--json").json()
    assert found["images"][0]["masks"] == len(want) > 0
    clicked = command("click", photos / "a.png", "-m", tmp_path / kind, "--point", "20,12", "--json").json()
    one = opened.predict(opened.encode(photos / "a.png"), Prompts.of(points=[(20, 12)], labels=[1])).pick()
    assert clicked["pixels"] == int((one.logits[0, 0] > 0).sum())


def test_mistakes_are_named(command: Command, folder: Path, photos: Path) -> None:
    (photos / "a.png").write_bytes(b"no picture")
    done = command("masks", photos / "a.png", "-m", folder)
    assert done.code != 0
    assert "give another picture" in done.err
    assert command("masks", photos, "-m", folder, "--crop-overlap-ratio", "2").code == 2
    assert "there is no promptable" in command("masks", photos, "-m", "large-sam").err
    assert not Path("masks").exists()


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an annotation that is a number": lambda found: found["annotations"].append(3),
    "an annotation without anything": lambda found: found["annotations"].append({}),
    "an area that is a text": lambda found: found["annotations"][0].update(area="x"),
    "an area that is not finite": lambda found: found["annotations"][0].update(area=float("inf")),
    "annotations that are no list": lambda found: found.update(annotations={}),
    "an image that is a number": lambda found: found.update(images=[3]),
    "an image without its size": lambda found: found.update(images=[{"file_name": "a.png"}]),
    "an image of no height": lambda found: found["images"][0].update(height=0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_of_an_earlier_run_is_made_again(
    command: Command, folder: Path, photos: Path, name: str
) -> None:
    words = ("masks", photos / "a.png", "-m", folder, *LOOSE)
    assert command(*words).code == 0
    place = Path("masks", "a.json")
    whole = json.loads(place.read_text())
    damaged = json.loads(place.read_text())
    DAMAGES[name](damaged)
    place.write_text(json.dumps(damaged))
    done = command(*words)
    assert done.code == 0, done.err
    assert "done before" not in done.err
    assert json.loads(place.read_text()) == whole


def test_files_of_the_users_own_stay(command: Command, folder: Path, photos: Path) -> None:
    own = photos / "a.json"
    own.write_text('{"by": "hand"}')
    words = ("masks", photos, "-m", folder, *LOOSE, "--out", photos)
    done = command(*words)
    assert (done.code, f"{own} is there already and binderclip did not write it" in done.err) == (2, True), done.err
    assert own.read_text() == '{"by": "hand"}'
    assert not (photos / "masks.json").exists()
    assert command(*words, "--overwrite").code == 0
    assert "annotations" in json.loads(own.read_text())
