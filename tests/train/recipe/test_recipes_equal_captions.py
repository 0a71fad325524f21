"""Every recipe that learns from captions is started on pictures many of which share one, as real ones do.

Recipes trained from nothing at 64 pixels keep the batch that they use; those of the papers' scale keep everything but
the size of their models, batches and run. A loss that is not finite ends a run, so that a step or two are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.settings import part_name
from binderclip.train import Recipe, list_recipes, load_recipe, run

CAPTIONS = tuple(
    f"a {colour} {thing}" for colour in ("red", "green") for thing in ("cat", "dog", "cup", "tree", "car", "bird")
)
PICTURES, BATCH, STEPS = 512, 16, 2
WITHOUT_CAPTIONS = (
    "alpha-clip",
    "small",
    "small-b",
    "small-cpu",
    "small-dino",
    "small-sam",
    "sam-clip",
    "segmentation-head",
)
NARROW = {
    "embed_dim": 32,
    "vision": {"layers": 2, "width": 64, "head_width": 32},
    "text": {"layers": 1, "width": 64, "heads": 2},
}
KINDS: dict[str, dict[str, Any]] = {
    "attentive-mask": {"hidden": 32, "width": 16},
    "multi-view": {"hidden": 32, "width": 16},
    "masked-feature": {"teacher": "small"},
    "segclip": {"groups": 3, "layers": 1},
    "experts": {"experts": ["outline"], "weights": {}},
}
SMOOTHED = ("contrastive", "attentive-mask", "multi-view", "experts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise with a dozen captions."""
    made, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["file,caption"]
    for number in range(PICTURES):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(made / f"{number:03d}.png")
        lines.append(f"{number:03d}.png,{CAPTIONS[number % len(CAPTIONS)]}")
    (made / "captions.csv").write_text("\n".join(lines))
    return made


def started(name: str, folder: Path, smoothing: float | None) -> Recipe:
    """The recipe for two steps, or for one with smoothing in its softmax losses."""
    document = load_recipe(name).document()
    document |= {"evaluation": {}, "precision": "float32"}
    document["model"] = _narrow(document["model"])
    for stage in document["stage"]:
        kind = {"name": stage["kind"]} if isinstance(stage["kind"], str) else dict(stage["kind"])
        stage["kind"] = {**kind, **KINDS.get(kind["name"], {})}
        from_nothing = (
            name.endswith("-small") and isinstance(document["model"], dict) and "base" not in document["model"]
        )
        batch = stage["batch_size"] if from_nothing or name == "scratch-64" else BATCH
        data = {"name": "noto-emoji", "limit": 160} if kind["name"] == "classification" else {"name": str(folder)}
        steps = STEPS if smoothing is None else 1
        stage |= {"data": [data], "batch_size": batch, "epochs": None, "samples": steps * batch}
        stage |= {"warmup": 0.0, "precision": "float32"}
        if stage.get("micro_batch"):
            stage["micro_batch"] = min(stage["micro_batch"], batch // 2)
        if smoothing is not None and kind["name"] in SMOOTHED:
            loss = stage["loss"] if isinstance(stage["loss"], Mapping) else {"name": stage["loss"]}
            stage["loss"] = {**loss, "smoothing": smoothing}
    return Recipe.from_dict(document)


def _narrow(model: Any) -> Any:
    """A model of the paper's scale with the small one's layers, or the bundled one in its place."""
    if isinstance(model, str):
        return "small"
    if "timm_model_name" in model.get("vision", {}):
        # At Mammo-CLIP's 1,520 pixels a step of this batch takes tens of gigabytes.
        model = {**model, "vision": {**model["vision"], "image_size": 64}}
        if model["text"]["width"] > 192:  # twelve layers of a BERT's width take two minutes
            model |= {"text": NARROW["text"]}
    if model["arch"] == "upcycled" or model.get("vision", {}).get("width", 0) <= 192:
        return model
    base = {"base": "small"} if "base" in model else {"embed_dim": NARROW["embed_dim"], "text": NARROW["text"]}
    model = {key: value for key, value in model.items() if "base" not in base or key != "embed_dim"}
    return {**model, **base, "vision": {**model["vision"], **NARROW["vision"]}}


def losses(name: str) -> Iterator[tuple[str, float | None]]:
    yield name, None
    if f"{name}-small" in list_recipes():  # its scaled version has the same losses
        return
    stages = load_recipe(name).stage
    softmax = [s for s in stages if part_name(s.kind) in SMOOTHED and part_name(s.loss) in ("clip", "clip-rocket")]
    if softmax and any("smoothing" not in s.loss for s in softmax):
        yield name, 0.1


CASES = [case for name in list_recipes() if name not in WITHOUT_CAPTIONS for case in losses(name)]


@pytest.mark.parametrize(("name", "smoothing"), CASES)
def test_equal_captions_leave_the_loss_finite(
    name: str, smoothing: float | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recipe, "cost", lambda *args, **settings: None)
    result = run(started(name, folder, smoothing), out=tmp_path / "run", progress=False)
    trained = [stage for stage in result.stages if stage.history]
    assert trained
    for stage in trained:
        assert np.isfinite(stage.history["loss"]).all(), stage.name
        assert len(stage.history["loss"]) == (STEPS if smoothing is None else 1)
