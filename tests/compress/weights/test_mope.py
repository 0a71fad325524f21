"""p046: what the pruner takes out, by which scores, and the folder of what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip import load
from binderclip.compress import ModulePruningError, MoPEPruner, PairedSample, masked
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.losses import CrossModalDistillation
from binderclip.models.files.checkpoint import read_json_object


def test_width_takes_the_least_errors_and_the_folder_opens_again(
    tmp_path: Path, make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model = make_clip()
    before = model.encode_image(make_pairs().pixels)
    pruner = MoPEPruner(model, make_pairs(), neuron_groups=5)
    errors = ModulePruningError(sample=make_pairs())(model, pruner.width_groups())
    step = pruner.width(0.5)
    assert set(step.scores) == set(errors)
    assert all(torch.equal(step.scores[name], error) for name, error in errors.items())
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
    torch.testing.assert_close(pruner.teacher.encode_image(make_pairs().pixels), before, atol=1e-5, rtol=1e-4)
    model.save(tmp_path / "half")
    again = load(tmp_path / "half")
    assert torch.equal(again.encode_image(make_pairs().pixels), model.encode_image(make_pairs().pixels))
    assert torch.equal(again.encode_text(list(make_pairs().texts)), model.encode_text(list(make_pairs().texts)))
    assert again.fingerprint == model.fingerprint
    # a pruned model can be pruned again
    MoPEPruner(again, make_pairs(), sides=["image"]).width(0.5)
    assert again.config["model_cfg"]["pruned"]["vision"] == {"blocks": [{"heads": 1, "neurons": 16}] * 2}


def test_the_first_set_has_the_neurons_that_the_loss_depends_on_most(
    make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    """|sum over the activations of dL/da a| is the gradient with respect to a factor of 1 behind each neuron."""
    model = make_clip(1)
    data, pruner = make_pairs(), MoPEPruner(model, make_pairs(), neuron_groups=5)
    towers = {"image": model.backbone.visual.transformer, "text": model.backbone.transformer}
    factors, handles = {}, []
    for side, tower in towers.items():
        for place, block in enumerate(tower.resblocks):
            factor = factors[f"{side}.{place}.neurons"] = torch.ones(block.mlp.c_fc.out_features, requires_grad=True)
            handles.append(block.mlp.gelu.register_forward_hook(lambda _, args, a, factor=factor: a * factor))
    logits = model.scale() * model.similarity(
        model.encode_image(data.pixels), model.encode_text(list(make_pairs().texts))
    )
    (-sum(side.log_softmax(1).diagonal().mean() for side in (logits, logits.mT)) / 2).backward()
    for handle in handles:
        handle.remove()
    sets = {one.name: one for one in pruner.width_groups() if one.kind == "neuron"}
    assert set(sets) == set(factors)
    for name, one in sets.items():
        order = factors[name].grad.abs().argsort(descending=True)  # type: ignore[union-attr]
        for member in one.members:
            for index, expected in zip(member.index, order.chunk(len(one)), strict=True):
                assert set(index.tolist()) == set(expected.tolist())


@pytest.mark.parametrize(("metric", "least"), [("loss", [1, 1]), ("recall", [2, 1])])
def test_depth_takes_the_block_of_least_error_on_each_side(
    metric: Any, least: list[int], make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model, data = make_clip(), make_pairs()
    pruner = MoPEPruner(model, data, metric=metric)
    groups = pruner.groups(("block",))
    errors = ModulePruningError(sample=data, metric=metric)(model, groups)
    image, text = ([errors[f"{side}.{i}.blocks"] for i in range(count)] for side, count in (("image", 3), ("text", 2)))
    gone = [int(torch.cat(own).argmin()) for own in (image, text)]
    assert gone == least
    with masked(groups, {one.name: torch.tensor([one.layer != gone[one.side == "text"]]) for one in groups}):
        expected = model.encode_image(data.pixels), model.encode_text(list(make_pairs().texts))
    step = pruner.depth(0.5)
    assert all(torch.equal(step.scores[name], error) for name, error in errors.items())
    assert pruner.blocks == {"image": [i for i in range(3) if i != gone[0]], "text": [1 - gone[1]]}
    torch.testing.assert_close(model.encode_image(data.pixels), expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.encode_text(list(make_pairs().texts)), expected[1], atol=1e-5, rtol=1e-4)


def test_a_record_that_does_not_fit_is_refused(
    tmp_path: Path, make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    import json

    model = make_clip()
    MoPEPruner(model, make_pairs(), sides=["text"]).width(0.5)
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


def test_recovery_brings_the_model_back_towards_its_teacher(
    make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model, data = make_clip(1), make_pairs()
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


def test_what_cannot_be_pruned_is_refused(
    make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model = make_clip()
    with pytest.raises(UsageError, match="sides"):
        MoPEPruner(model, make_pairs(), sides=[])
    pruner = MoPEPruner(model, make_pairs())
    for amount in (0, 1, 1.2, math.nan):
        with pytest.raises(UsageError, match="amount"):
            pruner.width(amount)
        with pytest.raises(UsageError, match="amount"):
            pruner.depth(amount)
    with pytest.raises(NotSupported, match="leave 'image' out"):
        MoPEPruner(load("small-b"), make_pairs())
