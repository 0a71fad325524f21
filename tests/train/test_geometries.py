"""Recipes whose loss has another geometry than the cosine: where they start, and what they are measured by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip import cli
from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.evaluate import retrieval
from binderclip.losses import Lorentz, SquaredEuclidean
from binderclip.models import load
from binderclip.settings import write_toml
from binderclip.train import Recipe, run


def go(document: dict[str, Any], out: Path):
    return run(Recipe.from_dict(document), out=out, progress=False)


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        ("euclip", 1.0),
        ({"name": "euclip", "entailment": 0.2}, math.exp(-1)),
        ({"name": "euclip", "init_scale": 3.0}, 3.0),
        ("meru", 1 / 0.07),
        ({"name": "contrastive", "similarity": "arc"}, 1 / 0.07),
    ],
)
def test_a_new_model_starts_from_the_scale_of_its_geometry(tiny: dict[str, Any], tmp_path: Path, loss, start) -> None:
    tiny["loss"] = loss
    history = go(tiny, tmp_path / "a").stages[0].history
    assert history["scale"][0] == pytest.approx(start, rel=1e-5)
    assert history["scale"][-1] != history["scale"][0]
    assert np.isfinite(history["loss"]).all()


def test_macl_keeps_the_recipes_temperature(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = {"name": "macl", "tau0": 0.2, "alpha": 0.5}
    history = go(tiny, tmp_path / "a").stages[0].history
    alignment = history["similarity_positive"]
    np.testing.assert_allclose(history["scale"], 5.0 / (1 + 0.5 * alignment), rtol=1e-4)
    assert np.ptp(history["scale"]) > 0
    assert float(load(tmp_path / "a").scale()) == pytest.approx(5.0, rel=1e-3)


def test_held_out_data_is_measured_in_the_losss_geometry(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = "euclip"
    figures = go(tiny, tmp_path / "a").figures
    data = load_data("noto-emoji", split="val").subset(range(32))
    model = load(tmp_path / "a")
    images = model.encode_image([sample.image for sample in data.with_mode("RGB")])
    texts = model.encode_text(data.captions)
    with torch.no_grad():
        by_distance = retrieval(images, texts, captions=data.captions, similarity=SquaredEuclidean())
    order = torch.cdist(images.double(), texts.double()).argsort(1)
    same = np.array([[a == b for b in data.captions] for a in data.captions])
    found = np.mean([same[row, order[row, :10].numpy()].any() for row in range(32)])
    assert by_distance["image_to_text/R@10"] == pytest.approx(found)
    assert figures["noto-emoji/image_to_text/R@10"] == pytest.approx(found, abs=0.05)


def test_meru_is_trained_saved_and_used_by_the_verbs(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`binderclip train`, then `classify` and `search` compare on the hyperboloid that training learned."""
    tiny |= {"loss": "meru", "lr": 1e-2}
    (tmp_path / "meru.toml").write_text(write_toml(tiny), encoding="utf-8")
    picture = tmp_path / "pictures" / "red.png"
    picture.parent.mkdir()
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200)), ("white", (255, 255, 255))):
        Image.new("RGB", (40, 40), colour).save(picture.with_name(f"{name}.png"))
    say(monkeypatch, "train", tmp_path / "meru.toml", "--out", tmp_path / "run")
    capsys.readouterr()
    say(monkeypatch, "classify", picture, "-m", tmp_path / "run", "-l", "red square,blue square", "-t", "{}", "--json")
    told = json.loads(capsys.readouterr().out)["images"][0]["labels"]
    model = load(tmp_path / "run")
    assert isinstance(model.geometry, Lorentz)
    assert float(model.geometry.log_curvature) != 0.0
    assert float(model.geometry.log_text_scale) != 0.0
    with torch.no_grad():
        image, text = model.encode_image([picture]), model.encode_text(["red square", "blue square"])
        expected = (model.scale() * -distances(model.geometry, image, text)).softmax(1)[0]
    found = {row["label"]: row["prob"] for row in told}
    assert [found["red square"], found["blue square"]] == pytest.approx(expected.tolist(), abs=1e-4)

    say(monkeypatch, "search", "index", picture.parent, "-m", tmp_path / "run")
    capsys.readouterr()
    say(monkeypatch, "search", "query", "red square", "-i", picture.parent, "--json")
    hits = json.loads(capsys.readouterr().out)["hits"]
    files = sorted(picture.parent.glob("*.png"))
    with torch.no_grad():
        lengths = distances(model.geometry, model.encode_image(files), text[:1])[:, 0]
    order = lengths.argsort().tolist()
    assert [Path(hit["image"]).name for hit in hits] == [files[row].name for row in order]
    assert [hit["score"] for hit in hits] == pytest.approx((-lengths[order]).tolist(), abs=1e-3)

    say(monkeypatch, "segment", picture, "-m", tmp_path / "run", "-l", "red square,blue square", code=1)
    assert "by cosines of texts, and the model compares by Lorentz" in " ".join(capsys.readouterr().err.split())


def say(monkeypatch: pytest.MonkeyPatch, *words: object, code: int = 0) -> None:
    """`binderclip WORDS` in this process."""
    monkeypatch.setattr("sys.argv", ["binderclip", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert (done.value.code or 0) == code


def distances(geometry: Lorentz, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Geodesic distances, written with the hyperbolic law of cosines for tangent vectors at the origin.

    Points at r and s from the origin, at an angle a there: cosh d = cosh r cosh s - sinh r sinh s cos a, in units of
    curvature -1.
    """
    c = geometry.log_curvature.double().exp()
    width = image.shape[1]
    image = image.double() * geometry.log_image_scale.double().exp() / width**0.5
    text = text.double() * geometry.log_text_scale.double().exp() / width**0.5
    r, s = (c.sqrt() * part.norm(dim=1) for part in (image, text))
    cosine = torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    inner = torch.outer(r.cosh(), s.cosh()) - torch.outer(r.sinh(), s.sinh()) * cosine
    return inner.clamp_min(1).acosh() / c.sqrt()


def test_a_second_stage_goes_on_from_what_the_first_learned(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"loss": {"name": "meru", "curvature": 2.0}, "lr": 1e-2}
    go(tiny, tmp_path / "a")
    first = load(tmp_path / "a").geometry
    assert isinstance(first, Lorentz)
    assert first.settings() == {"curvature": 2.0}
    tiny |= {"model": str(tmp_path / "a"), "loss": "meru", "lr": 1e-9, "epochs": 1}
    go(tiny, tmp_path / "b")
    second = load(tmp_path / "b").geometry
    assert isinstance(second, Lorentz)
    assert second.settings() == first.settings()
    for name, value in first.state_dict().items():
        assert float(second.state_dict()[name]) == pytest.approx(float(value), abs=1e-6)
        assert float(value) != float(Lorentz(2.0).state_dict()[name])
    tiny |= {"loss": "clip"}
    go(tiny, tmp_path / "c")
    assert load(tmp_path / "c").geometry is None


def test_an_unknown_geometry_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = {"name": "contrastive", "similarity": "angle"}
    with pytest.raises(UsageError, match="cosine, arc"):
        go(tiny, tmp_path / "a")
