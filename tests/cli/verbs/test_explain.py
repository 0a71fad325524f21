"""`binderclip explain` on folders, side by side, with heads and words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.cli.verbs.explain import coloured

Command = Callable[..., Any]


def test_a_folder_is_explained_picture_by_picture(command: Command, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((90, 60)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    done = command("explain", folder, "-l", "a cat", "--out", "maps", "--npy", "--report", "page.html", "--json")
    rows = done.json()["images"]
    assert [Path(row["image"]).stem for row in rows] == ["cat", "coffee"]
    assert rows[0]["cosine"] > rows[1]["cosine"]
    assert "broken.png" in done.err
    for row in rows:
        assert Path(row["overlay"]).parent == Path("maps")
        values = np.load(row["map"])
        assert values.shape == (60, 90)
        x, y = row["peak_xy"]
        assert abs(np.unravel_index(values.argmax(), values.shape)[1] - x) <= 1
        assert abs(int(values.argmax()) // 90 - y) <= 1
    page = Path("page.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "cat.png: " in page


def test_methods_side_by_side(command: Command, pictures: Path, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    Image.open(pictures / "cat.jpg").resize((64, 64)).save(picture)
    words = ("explain", picture, "-l", "a cat", "--compare", "--method", "saliency,smoothgrad,input_x_gradient")
    done = command(*words, "-s", "n_samples=2", "--report", "methods.html", "--npy", "--json").json()
    assert {row["method"] for row in done["methods"]} == {"saliency", "smoothgrad", "input_x_gradient", "random map"}
    assert all(0 < row["insertion"] < 1 for row in done["methods"])
    with Image.open(done["sheet"]) as sheet:
        # The picture and three methods, large; a fifth cell begins another row.
        assert sheet.width == 4 * 292 + 12
        assert sheet.height < 2 * 280
    assert np.load(Path("cat-compare") / "smoothgrad.npy").shape == (1, 64, 64)
    page = Path("methods.html").read_text()
    assert "random map" in page
    assert "Deletion takes" in page
    printed = command(*words, "-s", "n_samples=2").out
    assert "a random map is what chance gives" in printed
    # None of these promises to add up, and one picture has no spread: there are no columns for that.
    assert "completeness" not in printed
    assert '<th class="n">+/-' not in page
    assert ">nan<" not in page


def test_methods_that_are_left_out_for_one_reason_stand_in_one_line(
    command: Command, pictures: Path, tmp_path: Path
) -> None:
    methods = "pixelmask,cartoonx,saliency"
    done = command("explain", pictures / "cat.jpg", "-l", "a cat", "--method", methods, "-o", tmp_path)
    lines = [line for line in done.err.splitlines() if line.startswith("left out ")]
    assert [line.partition(":")[0] for line in lines] == ["left out pixelmask, cartoonx"], done.err


def test_all_methods_are_compared_for_one_picture_and_the_costly_ones_named_for_more(
    command: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from binderclip import explain
    from binderclip.explain import METHODS, OPTIMISED

    quick = dict.fromkeys(METHODS, explain.METHODS["saliency"])
    monkeypatch.setattr(explain, "METHODS", quick)
    # Which methods run is asked here, not how good their maps are.
    place = "binderclip.explain.faithfulness.comparison._scored"
    monkeypatch.setattr(place, lambda test, model, images, *_: torch.full((len(images),), 0.5))
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((64, 64)).save(folder / f"{name}.png")
    one = command("explain", folder / "cat.png", "-l", "a cat", "--compare", "--json").json()
    assert {row["method"] for row in one["methods"]} == {*METHODS, "random map"}
    with Image.open(one["sheet"]) as sheet:
        assert (sheet.width, sheet.height > 5 * 280) == (4 * 292 + 12, True)
    two = command("explain", folder, "-l", "a cat", "--compare", "--json").json()
    assert {row["method"] for row in two["methods"]} == {*METHODS, "random map"} - OPTIMISED
    assert set(two["left_out"]) == OPTIMISED
    every = command("explain", folder, "-l", "a cat", "--compare", "--method", "all", "--json").json()
    assert {row["method"] for row in every["methods"]} == {*METHODS, "random map"}


def test_what_a_crop_kept_from_the_model_is_framed(command: Command, tmp_path: Path, pictures: Path) -> None:
    picture = tmp_path / "wide.png"
    Image.open(pictures / "cat.jpg").resize((120, 60)).save(picture)
    for method in ("saliency", "gradcam"):
        done = command("explain", picture, "-l", "a cat", "--method", method, "--no-legend", "-o", "wide-map.png")
        assert "the model saw what is inside the frame" in done.err
        shown = np.asarray(Image.open("wide-map.png").convert("L")).astype(int)
        # The middle square was seen: a white line at both of its sides, the margins darker than what is inside.
        lines = np.flatnonzero((shown > 240).mean(axis=0) > 0.9)
        assert [int(column) for column in lines] == [30, 89]
        assert shown[:, :28].mean() < 0.7 * shown[:, 34:86].mean()
    square = tmp_path / "square.png"
    Image.open(pictures / "cat.jpg").resize((60, 60)).save(square)
    assert "frame" not in command("explain", square, "-l", "a cat").err


def test_a_method_that_says_nothing_is_called_blank(
    command: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from binderclip import explain

    def half(_model: Any, images: Any, _target: Any) -> explain.Attribution:
        """Blank on the first image of several, and on a single one."""
        many = isinstance(images, torch.Tensor)
        size = tuple(images.shape[-2:]) if many else (images[0].height, images[0].width)
        values = torch.zeros(len(images), 4, 4)
        values[1:, 1, 2] = 1
        box = explain.engine.placement.Box(0, 0, *size)
        return explain.Attribution((values,), (box,), size, torch.full((len(images),), 0.3), "half", "relu")

    monkeypatch.setitem(explain.METHODS, "half", lambda: half)
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((64, 64)).save(folder / f"{name}.png")
    words = ("explain", folder, "-l", "a cat", "--compare", "--method", "saliency,half")
    rows = command(*words, "--json").json()["methods"]
    assert [(row["method"], row["blank"]) for row in rows if row["blank"]] == [("half", 1)]
    assert rows[-1]["method"] == "half"
    done = command(*words, "--report", "page.html")
    assert "half: blank on 1 of 2 images" in done.err
    assert "half: blank on 1 of 2 images" in Path("page.html").read_text()
    single = command("explain", folder / "cat.png", "-l", "a cat", "--method", "half", "--report", "one.html", "--json")
    assert single.json()["blank"] is True
    assert "blank map" in Path("one.html").read_text()


def test_a_settings_layer_and_method_are_checked(command: Command, pictures: Path) -> None:
    words = ("explain", pictures / "cat.jpg", "-l", "a cat")
    for options, code, message in [
        (("--method", "gradcam", "--layer", "9"), 2, "the tower has 4 blocks"),
        (("--method", "gradcam", "--layer", "conv9"), 2, "has no layer 'conv9'; it has trunk"),
        (("--method", "saliency", "--layer", "-1"), 2, "saliency looks at the pixels"),
        (("--method", "smoothgrad", "-s", "samples=3"), 2, "has no setting 'samples'"),
        (("--method", "smoothgrad", "-s", "n_samples=0"), 2, "n_samples must be at least 1"),
        (("--method", "saliency,smoothgrad", "-s", "samples=3"), 2, "--set samples: none of saliency, smoothgrad has"),
        (("--method", "saliency,gradcam", "-o", "a.png"), 2, "for several images or methods give a folder"),
        (("--method", "pretty", "--compare"), 2, "--method 'pretty' is unknown; there are"),
    ]:
        done = command(*words, *options)
        assert done.code == code, done.err
        assert message in done.err
    done = command("explain", pictures / "cat.jpg", "-l", "a cat " * 20)
    assert done.code == 2
    assert "longer than the 16 tokens" in done.err
    assert "give --label" in command("explain", pictures / "cat.jpg").err
    assert "one image and its caption" in command("explain", "--words", pictures / "cat.jpg").err


def test_several_methods_are_drawn_at_once(command: Command, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((64, 48)).save(folder / f"{name}.png")
    words = ("explain", folder, "-l", "a cat", "--npy", "--json")
    done = command(
        *words, "--method", "smoothgrad,saliency", "-s", "n_samples=2", "-o", "maps", "--report", "page.html"
    )
    rows = done.json()["images"]
    assert [(Path(row["image"]).stem, row["method"]) for row in rows] == [
        (name, method) for name in ("cat", "coffee") for method in ("smoothgrad", "saliency")
    ]
    assert Path("page.html").read_text().count("data:image/png;base64") == 4
    alone = command(*words, "--method", "smoothgrad", "-s", "n_samples=2", "-o", "one").json()["images"]
    for row, other in zip(rows[::2], alone, strict=True):
        assert row["overlay"] == f"maps/{Path(row['image']).stem}-smoothgrad.png"
        np.testing.assert_allclose(np.load(row["map"]), np.load(other["map"]), rtol=1e-3, atol=1e-6)
        assert (row["peak_xy"], row["cosine"]) == (other["peak_xy"], pytest.approx(other["cosine"]))


def test_a_method_that_cannot_be_run_costs_its_own_map_alone(command: Command, pictures: Path) -> None:
    words = ("explain", pictures / "cat.jpg", "-l", "a cat", "--model", "small-b", "--method")
    done = command(*words, "rollout,saliency", "--json")
    document = json.loads(done.out)
    assert (done.code, [row["method"] for row in document["images"]]) == (1, ["saliency"])
    assert [*document["left_out"]] == ["rollout"]
    assert "left out rollout: " in command(*words, "rollout,saliency").err
    alone, several = command(*words, "rollout"), command(*words, "rollout,gradeclip")
    assert (alone.code, several.code, alone.err) == (1, 1, several.err)


def test_words_of_a_caption(command: Command, pictures: Path) -> None:
    done = command("explain", "--words", pictures / "cat.jpg", "a cat and a truck", "--json").json()
    assert [entry["word"] for entry in done["words"]] == ["a", "cat", "and", "a", "truck"]


def test_words_are_coloured_by_sign_and_marked_when_wrong() -> None:
    line = coloured([("a", 0.01), ("red", 1.0), ("cat", -0.8), ("here", None)], [False, False, True, False])
    assert line.plain == "a red cat here"
    styles = {line.plain[span.start : span.end].strip(): str(span.style) for span in line.spans}
    assert styles["red"] == "bold green"
    assert styles["cat"] == "bold red underline"
    assert "strike" in styles["here"]


@pytest.mark.parametrize("label", ["cat", None])
def test_a_class_of_a_head(command: Command, pictures: Path, tmp_path: Path, label: str | None) -> None:
    from binderclip.adapt import NearestExampleClassifier, save_head
    from binderclip.models import load

    model = load("small")
    names = ["cat", "coffee"]
    features = model.encode_image([Image.open(pictures / f"{name}.jpg") for name in names]).detach().numpy()
    head = NearestExampleClassifier().fit(features, names)
    save_head(head, tmp_path / "head", model="small")
    words = ("explain", pictures / "cat.jpg", "--head", tmp_path / "head", "--json")
    found = command(*words, *(() if label is None else ("-l", label))).json()
    other = command(*words, "-l", "coffee", "-o", "other.png").json()
    assert found["logit"] > other["logit"]
    assert "is none of the model's classes: cat, coffee" in command(*words, "-l", "dog").err
