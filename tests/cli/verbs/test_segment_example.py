"""`binderclip segment-example`: folders, masks that do not fit, and pictures without the thing (p068)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.models import load_vision
from binderclip.segment import CorrelationBackbone, FewShotSegmenter, HypercorrelationNet, save_few_shot

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def strawberries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """example.png with mask.png; photos/ with two other strawberries and a picture without one; and their masks."""
    folder = tmp_path_factory.mktemp("strawberries")
    (folder / "photos").mkdir()
    (folder / "true").mkdir()
    made = scenes(3, 3, 160, vocabulary=vocabulary(["strawberry"], split="val+test+shift"), objects=1, area=(0.15, 0.2))
    other = scenes(4, 1, 160, vocabulary=vocabulary(["laptop"], split="val+test+shift"), objects=1, area=(0.15, 0.2))
    for name, batch, row in (
        ("example", made, 0), ("photos/a", made, 1), ("photos/b", made, 2), ("photos/none", other, 0)
    ):  # fmt: skip
        array = (batch.images[row] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{name}.png")
        mask = Image.fromarray(batch.visible[row, 0].numpy().astype(np.uint8) * 255)
        mask.save(folder / ("mask.png" if name == "example" else f"true/{Path(name).name}.png"))
    return folder


def overlap(found: Path, true: Path) -> float:
    labels, mask = np.asarray(Image.open(found)) == 1, np.asarray(Image.open(true)) > 0
    return float((labels & mask).sum() / (labels | mask).sum())


def test_a_folder_by_one_example_with_a_broken_picture(command: Command, strawberries: Path) -> None:
    photos = strawberries / "photos"
    (photos / "broken.png").write_bytes(b"no picture")
    words = ("segment-example", photos, "--example", strawberries / "example.png", "--mask", strawberries / "mask.png",
             "--label", "strawberry", "--out", "found", "--coco", "all.json", "--csv", "areas.csv")  # fmt: skip
    done = command(*words, "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert [Path(one["image"]).stem for one in found["images"]] == ["a", "b", "none"]
    assert [Path(one["image"]).name for one in found["skipped"]] == ["broken.png"]
    assert (found["images"][0]["head"], found["images"][0]["model"]) == ("prototype", "small")
    scores = [overlap(Path(f"found/{name}-labels.png"), strawberries / f"true/{name}.png") for name in "ab"]
    assert min(scores) > 0.5, scores
    document = json.loads(Path("all.json").read_text())
    assert [one["name"] for one in document["categories"]][-1] == "strawberry"
    kept = Path("found/a-labels.png").stat().st_mtime_ns
    assert "3 images done before" in command(*words).err
    assert Path("found/a-labels.png").stat().st_mtime_ns == kept
    # Another example is another question.
    other = command(*words[:3], photos / "a.png", "--mask", strawberries / "true/a.png", *words[6:])
    assert (other.code, "made with other examples, masks" in other.err) == (2, True)


def test_several_examples_and_heads_without_training(command: Command, strawberries: Path) -> None:
    shown = ("--example", strawberries / "example.png", "--mask", strawberries / "mask.png")
    second = ("--example", strawberries / "photos/b.png", "--mask", strawberries / "true/b.png")
    words = ("segment-example", strawberries / "photos/a.png", *shown, "--model", "lite0", "--head")
    one = command(*words, "prototype", "--map", "one.png")
    assert "1 example, head prototype, model lite0" in one.out
    assert "object" in one.out
    two = command(*words, "prior", *second, "--map", "two.png", "--json").json()
    assert (two["head"], two["model"], len(two["examples"])) == ("prior", "lite0", 2)
    assert two["classes"] == ["background", "object"]
    assert Image.open("one.png").size == Image.open("two.png").size == (160, 160)


def test_one_class_of_a_label_map(command: Command, strawberries: Path, tmp_path: Path) -> None:
    true = np.asarray(Image.open(strawberries / "mask.png")) > 0
    labels = Image.fromarray(np.where(true, 7, 3).astype(np.uint8))
    labels.putpalette([0, 0, 0] * 256)
    labels.save(tmp_path / "labels.png")
    words = ("segment-example", strawberries / "photos/a.png", "--example", strawberries / "example.png", "--head",
             "prototype", "--model", "lite0", "--mask")  # fmt: skip
    command(*words, tmp_path / "labels.png", "--mask-value", 7, "--map", "by-value.png")
    command(*words, strawberries / "mask.png", "--map", "by-mask.png")
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("by-value.png", "by-mask.png")))
    for options, message in (
        (("--mask-value", 5), "has no pixel of the value 5; it has 3, 7"),
        ((), "is a label map of 3, 7: say which by --mask-value"),
    ):
        done = command(*words, tmp_path / "labels.png", *options)
        assert done.code != 0
        assert message in done.err


def test_mistakes_are_named_before_a_model_is_loaded(
    command: Command, strawberries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binderclip.models.load_vision", lambda *a, **k: pytest.fail("a model was loaded"))
    example, mask, picture = (strawberries / name for name in ("example.png", "mask.png", "photos/a.png"))
    Image.new("L", (160, 160)).save(tmp_path / "empty.png")
    Image.new("L", (80, 160), 255).save(tmp_path / "narrow.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    given = ("--example", example, "--mask")
    for options, message in (
        ((*given, tmp_path / "empty.png"), "is empty, every pixel is 0"),
        ((*given, tmp_path / "narrow.png"), "is 80 x 160 pixels, its --example"),
        ((*given, tmp_path / "broken.png"), "not a picture that can be read"),
        ((*given, tmp_path / "nowhere.png"), "there is no file"),
        (("--example", tmp_path / "broken.png", "--mask", mask), "broken.png"),
        (("--example", example), "Missing option '--mask'"),
        (("--mask", mask), "Missing option '--example'"),
        ((*given, mask, "--example", example), "one mask for each picture, not 2 and 1"),
        ((*given, mask, "--label", "background"), "cannot be called background"),
    ):
        done = command("segment-example", picture, *options)
        assert done.code != 0, message
        assert message in done.err
    assert "Missing argument" in command("segment-example", *given, mask).err
    done = command("segment-head", picture, "--head", "prior")
    assert (done.code, "--head: there is no folder prior" in done.err) == (2, True)


def test_a_trained_head_stands_on_its_own_model(command: Command, strawberries: Path, tmp_path: Path) -> None:
    backbone = CorrelationBackbone(load_vision("lite0"), 64)
    net = HypercorrelationNet(backbone.counts, widths=(4, 4, 4))
    trained = FewShotSegmenter(backbone, net)
    folder = save_few_shot(trained, tmp_path / "head")
    example, mask, picture = (strawberries / name for name in ("example.png", "mask.png", "photos/a.png"))
    words = ("segment-example", picture, "--example", example, "--mask", mask, "--head")
    assert command(*words, folder, "--map", "own.png").code == 0
    known = trained.examples([example], [np.asarray(Image.open(mask))])
    assert np.array_equal(np.asarray(Image.open("own.png")), trained(picture, known).labels.numpy())
    done = command(*words, folder, "--model", "small-dino")
    assert (done.code, "was trained on lite0: leave out --model" in done.err) == (2, True)
    done = command(*words, "nothing")
    assert (done.code, "no folder 'nothing' of a few-shot head" in done.err) == (2, True)
