"""p046: the error of a module against a forward pass without it, the pruner, and its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip import load
from binderclip.compress import ModulePruningError, MoPEPruner, PairedSample, masked, tower_groups
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.evaluate.retrieval_metrics import retrieval
from binderclip.losses import CrossModalDistillation
from binderclip.models import build
from binderclip.models.files.checkpoint import read_json_object

VISION = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16, "mlp_ratio": 2.0}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0}
WORDS = ("cat", "dog", "red car", "tree", "a house", "sea", "moon", "two birds", "clock", "old boat", "book", "key")


def tiny_clip(gain: float = 4) -> Any:
    torch.manual_seed(1)
    model = build({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}).eval()
    with torch.no_grad():  # large enough that a head matters
        for name, p in model.backbone.named_parameters():
            if "resblocks" in name and p.ndim == 2:
                p.mul_(gain)
    return model


def sample(**options: Any) -> PairedSample:
    torch.manual_seed(2)
    return PairedSample(**{"pixels": torch.rand(12, 3, 16, 16), "texts": WORDS, **options})


@pytest.mark.parametrize("metric", ["recall", "accuracy", "loss"])
def test_the_error_is_that_of_whole_passes_without_the_module(metric: str) -> None:
    """Brute force: the library's own encoders on the masked model, and the recall of `evaluate`."""
    model = tiny_clip()
    labels = torch.arange(12) if metric == "accuracy" else None
    data = sample(labels=labels)

    def value() -> float:
        with torch.no_grad():
            image, text = model.encode_image(data.pixels), model.encode_text(list(data.texts))
            logits = model.scale() * model.similarity(image, text)
        if metric == "accuracy":
            return float((logits.argmax(1) == labels).double().mean())
        if metric == "recall":
            found = retrieval(image, text)
            return sum(found[f"{way}/R@{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)) / 6
        rows, columns = (-side.log_softmax(1).diagonal().mean() for side in (logits, logits.mT))
        return -float(rows + columns) / 2

    groups = [
        one
        for side, tower in (("image", model.image_tower), ("text", model.text_tower))
        for one in tower_groups(tower, ("head", "block"), side=side)
    ]
    errors = ModulePruningError(sample=data, metric=metric, break_ties=False, batch_size=5)(model, groups)  # type: ignore[arg-type]
    assert list(errors) == [one.name for one in sorted(groups, key=lambda one: one.side)]
    whole, changes = value(), []
    for one in groups:
        for number in range(len(one)):
            with masked([one], {one.name: torch.arange(len(one)) != number}):
                changes.append(whole - value())
            assert math.isclose(float(errors[one.name][number]), changes[-1], rel_tol=1e-4, abs_tol=2e-6)
    assert len({round(change, 6) for change in changes}) > 3


def test_a_module_that_adds_nothing_has_no_error_and_ties_are_broken_below_a_step() -> None:
    model = tiny_clip()
    with torch.no_grad():
        model.backbone.visual.transformer.resblocks[1].attn.out_proj.weight[:, 8:16] = 0
    groups = tower_groups(model.image_tower)
    plain = ModulePruningError(sample=sample(), break_ties=False)(model, groups)
    errors = ModulePruningError(sample=sample())(model, groups)
    assert float(errors["image.1.heads"][1]) == 0
    step = 1 / (6 * 12)
    for name, error in errors.items():
        assert float((error - plain[name]).abs().max()) <= 0.25 * step + 1e-12
    values = torch.cat(list(errors.values()))
    assert len(values.unique()) > len(torch.cat(list(plain.values())).unique())


def test_width_takes_the_least_errors_and_the_folder_opens_again(tmp_path: Path) -> None:
    model = tiny_clip()
    before = model.encode_image(sample().pixels)
    pruner = MoPEPruner(model, sample(), neuron_groups=5)
    step = pruner.width(0.5)
    assert {name: len(keep) for name, keep in step.keep.items()} == {
        **{f"image.{i}.heads": 4 for i in range(3)}, **{f"text.{i}.heads": 3 for i in range(2)},
        **{f"image.{i}.neurons": 4 for i in range(3)}, **{f"text.{i}.neurons": 4 for i in range(2)},
    }  # fmt: skip
    for name, keep in step.keep.items():
        assert int((~keep).sum()) == len(keep) // 2
        assert float(step.scores[name][keep].min()) >= float(step.scores[name][~keep].max())
    deeper = pruner.depth(0.4)
    assert deeper.removed.groups_after == 2 + 2
    assert [len(pruner.blocks[side]) for side in ("image", "text")] == [2, 2]
    blocks = [{"heads": 2, "neurons": 32}] * 2
    assert model.config["model_cfg"]["pruned"]["vision"] == {"blocks": blocks}
    torch.testing.assert_close(pruner.teacher.encode_image(sample().pixels), before, atol=1e-5, rtol=1e-4)
    model.save(tmp_path / "half")
    again = load(tmp_path / "half")
    assert torch.equal(again.encode_image(sample().pixels), model.encode_image(sample().pixels))
    assert torch.equal(again.encode_text(list(WORDS)), model.encode_text(list(WORDS)))
    assert again.fingerprint == model.fingerprint
    # a pruned model can be pruned again
    MoPEPruner(again, sample(), sides=["image"]).width(0.5)
    assert again.config["model_cfg"]["pruned"]["vision"] == {"blocks": [{"heads": 1, "neurons": 16}] * 2}


def test_a_record_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    import json

    model = tiny_clip()
    MoPEPruner(model, sample(), sides=["text"]).width(0.5)
    model.save(tmp_path)
    config = read_json_object(tmp_path / "open_clip_config.json")
    good = config["model_cfg"]["pruned"]["text"]["blocks"]
    for blocks, word in (
        ([good[0]] * 3, "1 to 2 blocks"),
        ([{"heads": 4, "neurons": 24}, good[1]], "from 1 to 3"),
        ([{"heads": 0, "neurons": 24}, good[1]], "from 1 to 3"),
        ([{"heads": 2.0, "neurons": 24}, good[1]], "whole number"),
        ([{"heads": 2}, good[1]], "heads and neurons"),
        ([{"heads": 1, "neurons": 24}, good[1]], "configuration"),  # fits the model, not the weights
    ):
        config["model_cfg"]["pruned"]["text"]["blocks"] = blocks
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=word):
            load(tmp_path)
    for record, word in (({"audio": {}}, "vision and text"), ({"vision": {"channels": {"x": [1]}}}, "no layer 'x'")):
        config["model_cfg"]["pruned"] = record
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=word):
            load(tmp_path)


def test_recovery_brings_the_model_back_towards_its_teacher() -> None:
    model, data = tiny_clip(1), sample()
    pruner = MoPEPruner(model, data)
    pruner.width(0.5)
    pruner.depth(0.5)
    batches = [(data.pixels, list(data.texts))]
    for settings, name in (({}, "features"), ({"similarity": 0.0, "features": 0.0}, "hidden")):
        loss = CrossModalDistillation(**settings)
        result = pruner.recover(batches, steps=20, lr=3e-3, loss=loss, log_every=10)
        values = result.history[f"distillation/{name}"]
        assert values[-1] < 0.8 * values[0]
    task = pruner.recover(batches, steps=1, task=lambda own: 0 * own.image.sum() + 7.0)
    assert float(task.history["loss"][0]) > 7
    assert not any(p.requires_grad for p in pruner.teacher.parameters())
    assert not model.training


def test_what_cannot_be_judged_is_refused() -> None:
    model = tiny_clip()
    with pytest.raises(UsageError, match="needs labels"):
        ModulePruningError(sample=sample(), metric="accuracy")
    with pytest.raises(UsageError, match="caption for each"):
        ModulePruningError(sample=sample(labels=torch.zeros(12, dtype=torch.long)), metric="recall")
    with pytest.raises(UsageError, match="12 pictures and 2 captions"):
        sample(texts=("a", "b"))
    with pytest.raises(UsageError, match="labels"):
        sample(labels=torch.full((12,), 12))
    with pytest.raises(UsageError, match="at least two"):
        PairedSample(pixels=torch.rand(1, 3, 16, 16), texts=("a",))
    with pytest.raises(UsageError, match="sides"):
        MoPEPruner(model, sample(), sides=[])
    pruner = MoPEPruner(model, sample())
    for amount in (0, 1, 1.2, math.nan):
        with pytest.raises(UsageError, match="amount"):
            pruner.width(amount)
        with pytest.raises(UsageError, match="amount"):
            pruner.depth(amount)
    with pytest.raises(NotSupported, match="leave 'image' out"):
        MoPEPruner(load("small-b"), sample())
