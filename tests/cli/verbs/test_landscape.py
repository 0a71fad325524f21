"""`binderclip landscape` on drawings with captions and on classes: figures, page, numbers, mistakes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.data import load_data
from binderclip.landscape import LossCurve, LossSurface
from binderclip.models import ImageTextModel, load
from binderclip.tasks import landscape
from binderclip.tasks.verbs.landscape.request import LandscapeRequest
from binderclip.tasks.verbs.landscape.result import Landscape

Command = Callable[..., Any]


def test_the_middle_is_the_model_itself_and_the_numbers_stand_beside_the_page(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    found = command(
        "landscape", tiny_clip(1), "--data", "digits", "--split", "all", "--limit", 30, "--points", 3, "--out", page,
        "--json",
    ).json()  # fmt: skip
    model, data = load(str(tiny_clip(1))), load_data("digits", split=None)
    rows = torch.linspace(0, len(data) - 1, 30, dtype=torch.float64).round().long().tolist()
    with torch.no_grad():
        image = model.encode_image([data[row].image for row in rows], normalize=True)
        logits = model.scale() * image @ model.encode_text(list(data.classes), normalize=True).T
    target = torch.tensor([int(data.labels[row]) for row in rows])
    assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-4)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == target).float().mean()), abs=1e-6)
    assert (found["named_by"], found["texts"], found["count"]) == ("classes", 10, 30)
    assert found["surface"]["loss"][1][1] == pytest.approx(found["loss"], rel=1e-6)
    # the line is the middle column of the plane, in finer steps
    assert found["curve"]["loss"][::2] == pytest.approx([row[1] for row in found["surface"]["loss"]], rel=1e-6)
    assert found["curve"]["alphas"] == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert abs(found["cosine"]) < 0.1
    numbers = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert numbers["surface"] == found["surface"]
    written = page.read_text(encoding="utf-8")
    assert written.count("data:image/png") == 2
    assert '"http' not in written, "the page must be readable without a network"


def test_captions_name_pictures_where_there_are_no_classes_and_the_model_stays(
    tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "captioned"
    folder.mkdir()
    data = load_data("noto-emoji", split="train").subset(range(6))
    for number in range(6):
        data[number].image.convert("RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{number} {data.captions[number]}", encoding="utf-8")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:100])
    (folder / "broken.txt").write_text("a broken one", encoding="utf-8")
    found = landscape(model=str(tiny_clip(1)), data=str(folder), points=4, report=False)
    assert (found.named_by, found.texts, found.count) == ("captions", 6, 6)
    assert [Path(key).name for key, _ in found.skipped] == ["broken.png"]
    assert 0.0 in found.curve.alphas.tolist(), "an even number of points has 0 on the line all the same"
    assert isinstance(found.surface, LossSurface)
    assert found.places() == []


def test_points_without_a_finite_loss_are_said(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    # features so long that half precision overflows at the ends
    model = load(str(tiny_clip(1)))
    with torch.no_grad():
        model.visual.proj.mul_(3e3)
    done = command(
        "landscape", model.save(tmp_path / "long"), "--data", "digits", "--limit", 4, "--points", 3, "--radius", 100,
        "--dtype", "float16", "--out", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    document = done.json()
    points = {(a, 0.0): loss for a, loss in zip(*(document["curve"][name] for name in ("alphas", "loss")), strict=True)}
    for a, losses in zip(document["surface"]["alphas"], document["surface"]["loss"], strict=True):
        points |= {(a, b): loss for b, loss in zip(document["surface"]["betas"], losses, strict=True)}
    assert len(points) == 5 + 9 - 3
    gaps = sum(not isinstance(loss, float) for loss in points.values())
    assert 2 < gaps < 11, "some lie on the line and on the plane"
    assert document["gaps"] == gaps
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{gaps} points without a finite loss, left blank: at (" in page
    assert f" and {gaps - 4} more" in page


def test_the_places_of_gaps_are_said(tiny_clip: Callable[[int], Path]) -> None:
    result = landscape_of([3.0, math.nan, 1.0, 2.0, math.inf], tiny_clip(1))
    result.surface.loss[2, 1] = math.inf  # of the line as well, where it is counted
    result.surface.loss[0, 2] = math.nan
    (gaps, *_) = result.remarks()
    assert gaps == "3 points without a finite loss, left blank: at (-0.5, 0), (1, 0), (-1, 1)"


def test_points_that_were_not_measured_are_no_gaps_and_end_the_width(tiny_clip: Callable[[int], Path]) -> None:
    whole = landscape_of([3.0, 1.2, 1.0, 1.5, 3.0], tiny_clip(1))
    curve = LossCurve(whole.curve.alphas[1:4], whole.curve.loss[1:4])  # both ends are missing
    whole.surface.loss[0] = math.nan
    whole.surface.loss[2, 2] = math.inf
    left = frozenset({(-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (1.0, 0.0)})
    result = replace(whole, curve=curve, unmeasured=left)
    assert result.gaps == 1
    assert result.remarks()[:2] == [
        "1 point without a finite loss, left blank: at (1, 1)", "interrupted: 4 points not measured, left blank",
    ]  # fmt: skip
    assert result.as_dict()["unmeasured"] == 4
    (row,) = (row for row in result.table()[1] if row[0] == "width")
    assert row[1] == "over 1", "half a step to either side was looked at"


def landscape_of(loss: list[float], tiny: Path) -> Landscape:
    """With these losses on a line from -1 to 1, on a plane of three by three."""
    curve = LossCurve(torch.linspace(-1, 1, len(loss), dtype=torch.float64), torch.tensor(loss).double())
    side = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    surface = LossSurface(side, side, torch.ones(3, 3).double(), None, 0.0)
    request = LandscapeRequest(model=str(tiny), points=(len(loss) + 1) // 2)
    return Landscape(request, "tiny", "digits", 4, "classes", 10, 1.0, 0.1, curve, surface, [])


def test_the_width_is_given_side_by_side_where_they_differ(tiny_clip: Callable[[int], Path]) -> None:
    for losses, words, document in (
        ([3.0, 2.0, 1.0, 2.0, 3.0], "1", (1.0, {"left": 0.5, "right": 0.5})),
        ([5.0, 3.0, 1.0, 2.0, 3.0], "0.75 (0.25 to the left, 0.5 to the right)", (0.75, {"left": 0.25, "right": 0.5})),
        ([5.0, 3.0, 1.0, 1.5, 1.9], "over 1.25 (0.25 to the left, over 1 to the right)",
         (None, {"left": 0.25, "right": None})),
        ([1.5, 1.2, 1.0, 1.5, 1.9], "over 2", (None, {"left": None, "right": None})),
    ):  # fmt: skip
        result = landscape_of(losses, tiny_clip(1))
        (row,) = (row for row in result.table()[1] if row[0] == "width")
        assert row[1] == words
        assert (result.as_dict()["width"], result.as_dict()["widths"]) == document
        steep = [remark for remark in result.remarks() if "within one step of 0.5" in remark]
        assert len(steep) == (document[1]["left"] == 0.25), "less than a step is a guess"


def test_no_point_is_measured_twice(tiny_clip: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encode, counts = ImageTextModel.encode_pixels, []

    def counted(model: ImageTextModel, pixels: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return encode(model, pixels)

    monkeypatch.setattr(ImageTextModel, "encode_pixels", counted)
    for points, measured in ((3, 5 + 9 - 3), (4, 7 + 16)):
        counts.clear()
        landscape(model=str(tiny_clip(1)), data="digits", limit=4, points=points, radius=0.3, report=False)
        assert sum(counts) == 1 + 4 * measured, "one picture shows which weights are read"


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    alike = tmp_path / "alike"
    alike.mkdir()
    picture = load_data("digits", split=None)[0].image.convert("RGB")
    for number in range(3):
        picture.save(alike / f"{number}.png")
        (alike / f"{number}.txt").write_text("a picture", encoding="utf-8")
    for words, options in {
        "all pictures": ("--data", alike),
        "nowhere": ("--data", tmp_path / "nowhere"),
        "--points": ("--points", 2),
        "--radius": ("--radius", "nan"),
        "templates": ("--data", "digits", "--templates", "nothing"),
    }.items():
        done = command("landscape", tiny_clip(1), "--no-report", *options)
        assert done.code in (1, 2), words
        assert words in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
