"""Whole runs on a tiny recipe: what they leave behind, and that they do what the recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from binderclip.data import load_data, write_shards
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train import STAGES, TERMS, Recipe, StageContext, run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load(folder).backbone.state_dict().items()}


def go(document: dict[str, Any], out: Path, **settings: Any):
    return run(Recipe.from_dict(document), out=out, progress=False, **settings)


@pytest.mark.usefixtures("plotted")
def test_a_run_leaves_everything(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["evaluation"]["every"] = 6
    result = go(tiny, tmp_path / "a")
    out = tmp_path / "a"
    for name in ("recipe.toml", "environment.json", "metrics.jsonl", "summary.json", "model/card.json"):
        assert (out / name).is_file(), name
    for name in ("loss.png", "gradient-norm.png", "scale.png", "recall.png"):
        with Image.open(out / "plots" / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10, name
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert {"grad_norm", "scale", "lr", "accuracy_a_to_b"} <= set(steps[0])
    measured = result.stages[0].evaluations
    assert [row["step"] for row in measured] == [6, 12]
    assert {f"noto-emoji/{d}/R@{k}" for d in ("image_to_text", "text_to_image") for k in (1, 5, 10)} <= set(measured[0])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["figures"] == pytest.approx(result.figures, abs=1e-6)
    assert summary["stages"][0]["data_hash"]
    assert list((out / "tensorboard").glob("events*"))
    card = json.loads((out / "model" / "card.json").read_text())
    assert card["recipe"]["stage"][0]["lr"] == 1e-3
    # A clip that only measures leaves the step alone but reports its norm.
    assert np.isfinite(result.stages[0].history["grad_norm"]).all()
    assert result.stages[0].history["loss"][-4:].mean() < result.stages[0].history["loss"][:4].mean()


def test_the_saved_model_is_the_trained_one_and_runs_repeat(tiny: dict[str, Any], tmp_path: Path) -> None:
    first, second = go(tiny, tmp_path / "a"), go(tiny, tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    np.testing.assert_array_equal(first.stages[0].history["loss"], second.stages[0].history["loss"])
    other = go({**tiny, "seed": 4}, tmp_path / "c")
    assert not np.array_equal(first.stages[0].history["loss"], other.stages[0].history["loss"])
    # The figures of the run are those of the saved model on the same pictures.
    from binderclip.data import load_data
    from binderclip.evaluate import retrieval

    model, held = load(tmp_path / "a"), load_data("noto-emoji", "val").subset(range(32))
    image, text = model.encode_image([s.image for s in held]), model.encode_text(held.captions)
    again = retrieval(image, text, captions=held.captions)
    assert first.figures["noto-emoji/text_to_image/R@10"] == pytest.approx(again["text_to_image/R@10"])


def test_an_existing_run_is_not_overwritten(tiny: dict[str, Any], tmp_path: Path) -> None:
    go(tiny, tmp_path / "a")
    with pytest.raises(UsageError, match="holds a run already"):
        go(tiny, tmp_path / "a")
    again = go(tiny, tmp_path / "a", resume=True)
    assert again.stages[0].steps == 12
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        go(tiny, tmp_path / "b")


def test_frozen_stays_and_rates_differ(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["groups"] = [{"match": "text.*", "freeze": True}, {"match": "visual.conv1.*", "lr": 0.0}]
    go(tiny, tmp_path / "a")
    before, after = weights(tmp_path / "a" / "stages" / "start"), weights(tmp_path / "a")
    for name, value in after.items():
        still = torch.equal(value, before[name])
        assert still == (name.startswith(("text.", "visual.conv1.")) or not value.is_floating_point()), name
    with pytest.raises(UsageError, match=r"'vision\.\*'"):
        go({**tiny, "groups": [{"match": "vision.*", "freeze": True}]}, tmp_path / "b")


def test_the_average_is_what_is_saved(tiny: dict[str, Any], tmp_path: Path) -> None:
    plain, averaged = go(tiny, tmp_path / "a"), go({**tiny, "ema": 0.5}, tmp_path / "b")
    np.testing.assert_array_equal(plain.stages[0].history["loss"], averaged.stages[0].history["loss"])
    a, b, start = weights(tmp_path / "a"), weights(tmp_path / "b"), weights(tmp_path / "a" / "stages" / "start")
    name = "visual.proj"
    assert not torch.equal(a[name], b[name])
    assert (a[name] - b[name]).norm() < (a[name] - start[name]).norm()


def test_two_stages_go_on_from_each_other(tiny: dict[str, Any], tmp_path: Path) -> None:
    shared = {key: tiny.pop(key) for key in ("data", "epochs")}
    tiny["stage"] = [
        {"name": "one", **shared},
        {"name": "two", **shared, "lr": 1e-9, "weight_decay": 0.0, "augment": False, "text_length": 8},
    ]
    result = go(tiny, tmp_path / "a")
    one, two = weights(tmp_path / "a" / "stages" / "00-one"), weights(tmp_path / "a")
    # The second stage hardly moves: what it leaves is what the first one learned.
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)
    assert [stage.name for stage in result.stages] == ["one", "two"]
    assert result.stages[1].history["loss"][0] < result.stages[0].history["loss"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16", "channels_last": True},
        {"accumulate": 2, "batch_size": 8, "clip": {"name": "norm", "max_norm": 0.5}},
        {"patch_dropout": 0.5, "grad_checkpointing": True},
        {"loss": {"name": "clip", "targets": "same-caption", "smoothing": 0.0}, "layer_decay": 0.8},
        {"optimizer": {"name": "sgd", "momentum": 0.9}, "warmup": 32, "schedule": "linear"},
    ],
    ids=lambda change: "+".join(change),
)
def test_settings_take_effect(tiny: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    tiny["epochs"] = 1
    plain, changed = go(tiny, tmp_path / "a"), go({**tiny, **change}, tmp_path / "b")
    assert np.isfinite(changed.stages[0].history["loss"]).all()
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert not all(torch.equal(a[name], b[name]) for name in a)
    if "warmup" in change:
        assert changed.stages[0].history["lr"][0] == pytest.approx(tiny["lr"] / 2)
    if "clip" in change:
        assert (changed.stages[0].history["clip_scale"] < 1).any()
    assert plain.stages[0].steps == 4


def test_pieces_make_the_same_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    """GradCache is exact. (With Adam, rounding of gradients that are zero by symmetry would be blown up.)"""
    tiny |= {"optimizer": {"name": "sgd", "momentum": 0.9}, "lr": 0.05}
    go(tiny, tmp_path / "a")
    go({**tiny, "micro_batch": 5}, tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_siglip_needs_a_bias(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["loss"] = "siglip"
    with pytest.raises(UsageError, match="logit_bias = -10"):
        go(tiny, tmp_path / "a")
    tiny["model"] |= {"logit_scale": 10.0, "logit_bias": -10.0}
    go(tiny, tmp_path / "b")
    assert load(tmp_path / "b").activation == "sigmoid"


def test_the_saved_scale_keeps_the_loss_within_its_bounds(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["model"]["logit_scale"] = 50.0
    go(tiny | {"epochs": 1, "loss": {"name": "clip", "max_scale": 20.0}}, tmp_path / "a")
    with torch.no_grad():
        assert float(load(tmp_path / "a").scale()) == pytest.approx(20.0, rel=1e-4)


def test_unreadable_pictures_are_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (40, 30 + i, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"noise number {i}")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:200])
    tiny |= {"data": [str(folder)], "epochs": 2, "batch_size": 8, "evaluation": {}}
    result = go(tiny, tmp_path / "a")
    assert [key for key, _ in result.skipped] == ["05.png"]
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["skipped"][0][0] == "05.png"
    assert result.stages[0].steps == 4


def test_streaming_equals_memory(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"augment": False, "evaluation": {}, "epochs": 1}
    tiny["model"]["vision"] |= {"image_size": 64, "patch_size": 16}
    whole = go(tiny, tmp_path / "a")
    streamed = go({**tiny, "cache_mb": 0}, tmp_path / "b")
    np.testing.assert_allclose(whole.stages[0].history["loss"], streamed.stages[0].history["loss"], rtol=1e-5)


def test_what_never_moves_stands_in_the_summary(tiny: dict[str, Any], tmp_path: Path) -> None:
    """One start is put out of order: queries and keys of the last block at zero, as the text tower's are not."""
    go({**tiny, "epochs": 1}, tmp_path / "start")
    model = load(tmp_path / "start")
    name, width = "visual.transformer.resblocks.1.attn.in_proj", 64
    with torch.no_grad():
        attention = model.backbone.visual.transformer.resblocks[1].attn
        attention.in_proj_weight[: 2 * width].zero_()
        attention.in_proj_bias.zero_()
    model.save(tmp_path / "broken")
    frozen = [{"match": "text.*", "freeze": True}]
    with pytest.warns(UserWarning, match=r"stage 'train': exactly zero gradient in the first 10 steps.*in_proj_weight"):
        result = go({**tiny, "model": str(tmp_path / "broken"), "groups": frozen}, tmp_path / "a")
    expected = [f"{name}_weight[q]", f"{name}_weight[k]", f"{name}_bias[q]"]
    assert sorted(result.stages[0].zero_gradients) == sorted(expected)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert sorted(summary["stages"][0]["zero_gradients"]) == sorted(expected)
    whole = go({**tiny, "model": str(tmp_path / "start")}, tmp_path / "b")
    assert whole.summary["stages"][0]["zero_gradients"] == []


def test_stages_and_terms_of_other_code(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of another kind trains its own module on cached columns through the same engine."""

    class Regression(nn.Module):
        def __init__(self, context: StageContext) -> None:
            super().__init__()
            self.model = context.model

        def forward(self, batch):
            return (self.model.encode_text(batch.tokens) - batch.columns["wanted"]).square().mean(), {}

    def follow(context: StageContext, *, value: float = 0.0) -> dict[str, Any]:
        wanted = torch.full((len(context.pictures), context.model.embed_dim), value)
        context.fit(Regression(context), context.batches(columns={"wanted": wanted}))
        return {"followed": value}

    monkeypatch.setitem(STAGES, "follow", follow)
    shared = {key: tiny.pop(key) for key in ("data", "epochs")}
    tiny["stage"] = [
        {
            "name": "texts",
            "kind": {"name": "follow", "value": 0.5},
            **shared,
            "groups": [{"match": "visual.*", "freeze": True}],
        },
        {"name": "both", **shared, "terms": [{"name": "distill", "teacher": str(tmp_path / "t"), "weight": 0.5}]},
    ]
    go({**tiny, "stage": [{"name": "t", **shared}], "seed": 9}, tmp_path / "t")
    result = go(tiny, tmp_path / "a")
    assert result.stages[0].notes == {"followed": 0.5}
    losses = result.stages[0].history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    before, after = weights(tmp_path / "a" / "stages" / "start"), weights(tmp_path / "a" / "stages" / "00-texts")
    assert torch.equal(before["visual.proj"], after["visual.proj"])
    assert {"loss/contrastive", "loss/distill"} <= set(result.stages[1].history)
    assert "distill" in TERMS


@pytest.mark.parametrize("place", ["stage", "evaluation"])
def test_a_recipe_cannot_run_commands_unless_its_user_allows_it(
    tiny: dict[str, Any], tmp_path: Path, place: str
) -> None:
    write_shards(load_data("noto-emoji", "train").subset(range(16)), tmp_path / "x-%d.tar")
    tiny["model"]["tokenizer"] = "small"
    tiny.pop("epochs")
    tiny["samples"] = 16
    data = [{"name": f"pipe:touch {tmp_path / 'ran'}; cat {tmp_path / 'x-0.tar'}"}]
    if place == "stage":
        tiny["data"] = data
    else:
        tiny["evaluation"]["data"] = data
    with pytest.raises(UsageError, match=r"runs a shell command.*--allow-pipe"):
        go(tiny, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    for entry in ("_allow_pipe", "allow_pipe"):
        with pytest.raises(UsageError, match=entry):
            Recipe.from_dict({**tiny, "data": [{**data[0], entry: True}]})
    assert go(tiny, tmp_path / "out", allow_pipe=True).stages[0].steps == 1
    assert (tmp_path / "ran").exists()
