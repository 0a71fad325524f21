"""`--mark` with `--box`: parsing, and that the marked pictures are what is encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.adapt import Crop, Outline, Region
from binderclip.data import scenes, vocabulary
from binderclip.errors import UsageError
from binderclip.models import build
from binderclip.tasks.arguments.marks import encode_marked, parse_mark


def test_marks_need_a_box_and_a_known_name() -> None:
    assert parse_mark(None, None) is None
    assert parse_mark("circle", "1,2,30,40") is not None
    for mark, box, said in (
        ("circle", None, "belong together"), (None, "1,2,3,4", "belong together"),
        ("star", "1,2,3,4", "--mark 'star' is unknown"), ("circle", "1,2", "must be x0,y0,x1,y1"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse_mark(mark, box)


def test_the_marked_pictures_are_encoded_and_bad_ones_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, name="tiny")
    rng = np.random.default_rng(0)
    sizes = {"a.png": (40, 40), "small.png": (9, 9), "c.png": (40, 60)}
    pictures = {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    paths = [tmp_path / name for name in ("a.png", "broken.png", "small.png", "c.png")]
    for edit in (Crop(), Outline("ellipse", width=0.1)):
        region = Region((10, 12, 36, 38))
        found = encode_marked(model, paths, (edit, region), batch_size=2)
        assert found.paths == [paths[0], paths[3]]
        assert found.index == [0, 3]
        assert [Path(key).name for key, _ in found.skipped] == ["broken.png", "small.png"]
        assert "outside the image of 9 x 9" in found.skipped[1][1]
        expected = model.encode_image([edit(pictures[name], region) for name in ("a.png", "c.png")])
        assert torch.allclose(found.features, expected, atol=1e-5)
    assert len(encode_marked(model, paths[1:3], (Crop(), region)).features) == 0


def test_classify_names_what_the_box_shows(command, tmp_path: Path) -> None:
    words = vocabulary("scenes15", split="test").only(("cat", "house", "cloud", "flower", "tree"))
    batch = scenes(8, 1, 256, vocabulary=words, objects=3, area=(0.06, 0.12), occlusion=0.0, background="plain")
    pixels = (batch.images[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    found = []
    for box in batch.boxes[0].int().tolist():
        place = ",".join(map(str, box))
        words = (
            "classify",
            tmp_path / "scene.png",
            "-l",
            "cat,house,cloud,flower,tree",
            "--mark",
            "crop",
            "--box",
            place,
        )
        found.append(command(*words, "--json").json()["images"][0]["labels"][0]["label"])
    assert sum(a == b for a, b in zip(found, batch.names[0], strict=True)) >= 2


def test_marks_go_with_pools_but_not_with_views(command, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    base = ("classify", tmp_path / "red.png", "-l", "cat,dog", "--mark", "blur", "--box", "4,4,30,30")
    pooled = command(*base, "--pool", "max", "--json").json()
    assert sum(label["prob"] for label in pooled["images"][0]["labels"]) == pytest.approx(1, abs=1e-4)
    for more, said in (
        (("--views", "tiles"), "leave out --views"), (("--mark", "star"), "--mark 'star' is unknown"),
        (("--box", "90,90,99,99"), "outside the image"),
    ):  # fmt: skip
        done = command(*base, *more)
        assert done.code in (1, 2)
        assert said in done.err.replace("\n", " ")
