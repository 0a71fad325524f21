"""Figures of a whole model, with a stand-in model whose features are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data, write_shards
from binderclip.errors import DataError
from binderclip.evaluate import evaluate_model
from binderclip.models import EncodedImages, TextBank

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class Colours:
    """A picture is its mean colour, a text the colour it names."""

    def encode_files(
        self, images: list[Image.Image], *, batch_size: int, on_error: str = "raise", progress: object = None
    ) -> EncodedImages:
        for done in range(batch_size, len(images) + batch_size, batch_size):
            if callable(progress):
                progress(min(done, len(images)))
        rows = [np.asarray(image, dtype=np.float32).reshape(-1, 3).mean(0) / 255 for image in images]
        return EncodedImages(torch.tensor(np.array(rows)), list(images), list(range(len(images))), [])

    def encode_text(self, texts: list[str], *, batch_size: int = 256) -> torch.Tensor:
        return torch.tensor([COLOURS[text] for text in texts])

    def text_bank(self, labels: list[str], templates: object) -> TextBank:
        return TextBank(
            names=labels,
            texts=labels,
            raw=self.encode_text(labels),
            owner=torch.arange(len(labels)),
            scale=torch.tensor(1.0),
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(3):
            # The third green picture is painted red: one of nine is wrong, whatever is measured.
            paint = COLOURS["red"] if (name, number) == ("green", 2) else colour
            Image.new("RGB", (8, 8), tuple(int(255 * v) for v in paint)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_one_wrong_picture_of_nine_costs_a_ninth(folder: Path) -> None:
    found = evaluate_model(Colours(), load_data(str(folder)), batch_size=2)
    assert found.count == 9
    assert found.figures["zero_shot/accuracy"] == pytest.approx(8 / 9)
    assert found.figures["image_to_text/R@1"] == pytest.approx(8 / 9)


@pytest.mark.parametrize("shards", [False, True])
def test_progress_rises_with_every_batch_across_chunks(folder: Path, shards: bool) -> None:
    data = load_data(str(folder))
    if shards:
        write_shards(data, folder / "shards/x-%03d.tar", per_shard=9)
        data = load_data(str(folder / "shards"))
    said: list[int] = []
    evaluate_model(Colours(), data, batch_size=1, progress=said.append)
    assert said == list(range(1, 10)), "a chunk is eight batches: nine pictures are two chunks"


def test_corrupt_pictures_are_left_out_and_named(folder: Path) -> None:
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    found = evaluate_model(Colours(), load_data(str(folder)), batch_size=4)
    assert found.count == 9
    assert [Path(key).name for key, _ in found.skipped] == ["broken.png"]


TONES = {"crimson": (0.9, 0.2, 0.0), "lime": (0.1, 0.9, 0.0), "navy": (0.0, 0.1, 0.9)}
SEVERAL = {"red": ["red", "lime"], "green": ["green", "navy"], "blue": ["blue"]}


@pytest.mark.parametrize("layout", ["rows.csv", "list.jsonl", "lines.txt", "coco", "shards"])
def test_every_caption_of_a_picture_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """By hand: "lime" and "navy" lie nearest to another picture than their own; each picture has one that fits."""
    for name, colour in TONES.items():
        monkeypatch.setitem(COLOURS, name, colour)
    root = tmp_path / "data"
    (root / "val2017").mkdir(parents=True)
    for name in SEVERAL:
        Image.new("RGB", (8, 8), tuple(int(255 * v) for v in COLOURS[name])).save(root / f"val2017/{name}.png")
    rows = [(name, text) for name, texts in SEVERAL.items() for text in texts]
    if layout == "rows.csv":
        (root / "captions.csv").write_text("file,caption\n" + "".join(f"val2017/{n}.png,{t}\n" for n, t in rows))
    elif layout == "list.jsonl":
        lines = [json.dumps({"file": f"val2017/{name}.png", "caption": texts}) for name, texts in SEVERAL.items()]
        (root / "captions.jsonl").write_text("\n".join(lines))
    elif layout == "coco":
        images = [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(SEVERAL)]
        notes = [{"image_id": list(SEVERAL).index(name), "caption": text} for name, text in rows]
        (root / "annotations").mkdir()
        (root / "annotations/captions_val2017.json").write_text(json.dumps({"images": images, "annotations": notes}))
    else:
        for name, texts in SEVERAL.items():
            (root / f"val2017/{name}.txt").write_text("\n".join(texts))
    spec = str(root)
    if layout == "shards":
        write_shards(load_data(spec), tmp_path / "shards/x-%03d.tar", per_shard=2)
        spec = str(tmp_path / "shards")
    found = evaluate_model(Colours(), load_data(spec))
    assert (found.count, found.figures["captions"]) == (3, 5)
    assert found.figures["text_to_image/R@1"] == pytest.approx(3 / 5)
    assert found.figures["image_to_text/R@1"] == 1.0
    assert found.figures["text_to_image/R@5"] == 1.0


def test_limit_takes_the_first(folder: Path) -> None:
    assert evaluate_model(Colours(), load_data(str(folder)), limit=4).count == 4


def test_a_set_without_a_readable_picture_is_refused(folder: Path) -> None:
    data = load_data(str(folder))
    for path in folder.rglob("*.png"):
        path.write_bytes(b"gone bad")
    with pytest.raises(DataError, match="no picture can be read"):
        evaluate_model(Colours(), data)


def test_shards_are_measured_as_the_set_they_hold(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = load_data(str(folder))
    shards = write_shards(data, tmp_path_factory.mktemp("shards") / "x-%03d.tar", per_shard=5)
    both = str(shards[0].with_name("x-{000..001}.tar"))
    whole = evaluate_model(Colours(), load_data(both), batch_size=1)
    expected = evaluate_model(Colours(), data).figures
    assert whole.count == 9
    # Shards hold labels, but not their names.
    assert whole.figures == {name: value for name, value in expected.items() if not name.startswith("zero_shot")}
    shards[0].write_bytes(shards[0].read_bytes()[:5000])
    cut = evaluate_model(Colours(), load_data(both))
    assert cut.count < 9
    assert "truncated shard" in cut.skipped[0][1]
    assert evaluate_model(Colours(), load_data(str(shards[1])), limit=2).count == 2
    shards[1].write_bytes(b"junk" * 1000)
    with pytest.raises(DataError, match="no picture can be read"):
        evaluate_model(Colours(), load_data(str(shards[1])))
