"""`binderclip geometry` on drawings with captions: figures, report, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.data import load_data
from binderclip.models import build, load

Command = Callable[..., Any]
COUNT = 24


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six dimensions, whose covariance a dozen pairs determine."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 6, "vision_cfg": vision, "text_cfg": text}, name="narrow")
    return model.save(tmp_path_factory.mktemp("models") / "narrow")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawings, each with a text file beside it, and one that is broken."""
    folder = tmp_path_factory.mktemp("captioned")
    data = load_data("noto-emoji", split="train").subset(range(COUNT))
    for number in range(COUNT):
        data[number].image.convert("RGB").resize((48, 48)).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"{number} {data.captions[number]}", encoding="utf-8")
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:100])
    (folder / "broken.txt").write_text("a broken one", encoding="utf-8")
    return folder


def test_figures_are_those_of_the_features_and_the_page_shows_pictures(
    command: Command, narrow: Path, captioned: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    found = command("geometry", narrow, "--data", captioned, "--out", page, "--json").json()
    assert (found["count"], found["left_out"], found["report"]) == (COUNT, [], str(page))
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    model, data = load(str(narrow)), load_data(str(captioned))
    pictures = [data[row].image for row in range(len(data)) if "broken" not in str(data.keys[row])]
    texts = [caption for caption in data.captions if "broken" not in caption]
    with torch.no_grad():
        image, text = model.encode_image(pictures, normalize=True), model.encode_text(texts, normalize=True)
    assert found["figures"]["gap"] == pytest.approx(float((image.mean(0) - text.mean(0)).norm()), abs=1e-5)
    alignment = float((image - text).square().sum(1).mean())
    assert found["figures"]["alignment"] == pytest.approx(alignment, abs=1e-5)
    assert set(found["recall"]) == {"as they are", "gap removed"}
    assert found["recall"]["as they are"]["count"] == COUNT / 2
    values = [entry["log_likelihood"] for entry in found["likelihood"]["images"]]
    assert len(values) == COUNT / 2
    assert values == sorted(values)
    written = page.read_text(encoding="utf-8")
    assert written.count("data:image/png") == 3 + 2 * 12
    assert '"http' not in written, "the page must be readable without a network"


def test_the_table_explains_every_figure_and_says_what_is_missing(
    command: Command, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.cli.shared.output import console

    monkeypatch.setattr(console, "width", 200)
    done = command("geometry", "small", "--data", captioned, "--no-report")
    assert done.code == 0, done.err
    rows = [line.split("  ") for line in done.out.splitlines()]
    gap = next(row for row in rows if row[0].strip() == "gap")
    assert "distance between the means" in gap[-1] or any("distance between the means" in cell for cell in gap)
    assert "too few for a covariance" in done.err
    assert "force" not in done.err
    assert not (tmp_path / "geometry.html").exists()


def test_mistakes_are_named(command: Command, narrow: Path, captioned: Path, tmp_path: Path) -> None:
    few, alike = tmp_path / "few", tmp_path / "alike"
    for folder, count in ((few, 5), (alike, COUNT)):
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").write_bytes((captioned / f"{number:02}.png").read_bytes())
            (folder / f"{number}.txt").write_text("a picture" if folder == alike else str(number), encoding="utf-8")
    for data, said in ((few, "has 5 pictures"), (alike, "all captions"), (tmp_path / "nowhere", "nowhere")):
        done = command("geometry", narrow, "--data", data, "--no-report")
        assert done.code in (1, 2)
        assert said in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
