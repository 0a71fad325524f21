"""What a recipe is said to cost, against formulas and against tokens counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from binderclip.models import load
from binderclip.train import BARE, MODELS, PASSES, STAGES, Recipe, StageContext, list_recipes, load_recipe, run
from binderclip.train.feed.length import planned_samples
from binderclip.train.recipe import bare
from binderclip.train.stages import private
from binderclip.train.stages.segmentation import _held_out

SIDES: dict[str, dict[str, Any]] = {
    "whole": {},
    "resize": {"image_tokens": {"name": "resize", "keep": 0.25}, "positions": "sincos"},
    "random": {"image_tokens": {"name": "random", "keep": 0.5}, "text_length": 6, "text_tokens": "random"},
    "grid": {"image_tokens": "grid", "micro_batch": 5},
    "block": {"image_tokens": {"name": "block", "keep": 0.5}, "positions": "interpolated", "image_size": 48},
    "dropout": {"patch_dropout": 0.3, "text_length": 8, "text_tokens": "syntax", "positions": "interpolated"},
}
PATCHES = {"whole": 16, "resize": 4, "random": 8, "grid": 4, "block": 16, "dropout": 11}


def transformer(tokens: int, width: int, layers: int) -> int:
    """Operations of a transformer: projections, attention, and an MLP of four times the width."""
    return layers * (2 * tokens * 12 * width * width + 4 * tokens * tokens * width)


@pytest.mark.parametrize("name", SIDES)
def test_counted_tokens_and_operations(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    tiny |= {**SIDES[name], "epochs": 1, "evaluation": {}}
    recipe = Recipe.from_dict(tiny)
    (stage,) = recipe.cost(samples=[planned_samples(recipe.stage[0])]).stages
    side, length = tiny.get("image_size", 32), tiny.get("text_length", 12)
    side = 16 if name == "resize" else side
    assert (stage.samples, stage.image_tokens, stage.text_tokens) == (64, 1 + PATCHES[name], length)
    grid = (side // 8) ** 2
    assert stage.image_flops == 2 * grid * 192 * 64 + transformer(1 + PATCHES[name], 64, 2) + 2 * 64 * 32
    assert stage.text_flops == transformer(length, 64, 2) + 2 * 64 * 32
    assert stage.flops == 64 * (4 if name == "grid" else 3) * (stage.image_flops + stage.text_flops)

    seen = {"image": 0, "text": 0}
    counting = nn.Module.__call__

    def count(module: nn.Module, *args: Any, **settings: Any) -> Any:
        if type(module).__name__ == "ResidualAttentionBlock" and torch.is_grad_enabled():
            which = "text" if settings.get("attn_mask") is not None else "image"
            seen[which] += args[0].shape[0] * args[0].shape[1]
        return counting(module, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__call__", count)
        result = run(recipe, out=tmp_path / "a", progress=False)
    assert result.stages[0].steps == 4
    # two blocks a tower; without gradients GradCache sees everything once more
    assert seen["image"] == 2 * 64 * stage.image_tokens
    assert seen["text"] == 2 * 64 * stage.text_tokens
    assert result.summary["cost"] == {"flops": stage.flops, "tokens": stage.tokens, "samples": stage.samples}
    assert stage.tokens == sum(seen.values()) // 2
    # Reduced or not, what is left is a plain model of its own size.
    assert load(tmp_path / "a").backbone.visual.positional_embedding.shape == (17, 64)


def test_a_new_model_is_counted_as_the_opened_one(tiny: dict[str, Any]) -> None:
    from binderclip.train import build_model

    recipe = Recipe.from_dict(tiny)
    model = build_model(recipe.model, seed=0, captions=lambda: ["a", "b"])
    assert recipe.cost(model) == recipe.cost()
    assert next(model.backbone.parameters()).device.type == "cpu"
    # a named model, a timm ViT of 64 patches and a class token inside open_clip
    small = Recipe.from_dict({**tiny, "model": "small"}).cost()
    assert small.stages[0].image_tokens == 65
    # epochs of unknown pictures
    assert small.samples is small.flops is None
    assert "?" in str(small)


def test_the_table(tiny: dict[str, Any]) -> None:
    shared = {key: tiny.pop(key) for key in ("data", "epochs")}
    stages = [{"name": name, "data": shared["data"], "samples": n} for name, n in (("first", 3_000_000), ("last", 40))]
    recipe = Recipe.from_dict({**tiny, "stage": stages})
    cost = recipe.cost()
    # whole steps of 16
    assert [stage.samples for stage in cost.stages] == [3_000_000, 32]
    assert cost.samples == 3_000_032
    assert cost.tokens == 3_000_032 * (17 + 12)
    assert cost.flops == sum(stage.flops or 0 for stage in cost.stages)
    header, first, last, together = str(cost).splitlines()
    assert header.split()[:2] == ["stage", "samples"]
    assert first.split()[:4] == ["first", "3e+06", "17", "12"]
    assert first.split()[-1] == "100%"
    assert last.split()[1] == "32"
    assert together.startswith("together")


HEADS = {"hidden": 8, "width": 8}
KINDS: dict[str, dict[str, Any]] = {
    "contrastive": {},
    "in pieces": {"micro_batch": 4},
    "recomputed": {"grad_checkpointing": True},
    "image tower frozen": {"groups": [{"match": "visual.*", "freeze": True}]},
    "with a teacher": {"loss": "clip-refine", "teacher": "start"},
    "classification": {"kind": "classification"},
    "experts": {"kind": {"name": "experts", "experts": ["outline"]}},
    "masked-feature": {"kind": {"name": "masked-feature", "teacher": "small"}},
    "multi-view": {"kind": {"name": "multi-view", **HEADS}, "loss": {"name": "clip-rocket", "n_local": 2}},
    "multi-view with a momentum copy": {
        "kind": {"name": "multi-view", **HEADS},
        "loss": {"name": "clip-rocket", "n_local": 1},
        "terms": [{"name": "cross-modal-simsiam", "momentum": 0.99, **HEADS}],
    },
    "hard-negatives": {
        "kind": {"name": "hard-negatives", "count": 3},
        "loss": "hard-negatives",
        "data": [{"name": "openclipart", "limit": 64}],
    },
    "attentive-mask": {"kind": {"name": "attentive-mask", **HEADS}},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_counted_as_torch_counts_its_training(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    """One step under torch's counter: heads and losses are small; the first layer needs no gradient of the pixels, and
    a recomputed block stops before its last layer."""
    tiny |= {**KINDS[name], "epochs": None, "samples": 16, "evaluation": {}}
    recipe = Recipe.from_dict(tiny)
    counted, fit = [], StageContext.fit

    def counting(*args: Any, **settings: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = fit(*args, **settings)
        counted.append(counter.get_total_flops())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageContext, "fit", counting)
        result = run(recipe, out=tmp_path / "a", progress=False)
    assert result.cost is not None
    assert result.cost == recipe.cost()
    assert result.cost.flops is not None
    assert 0.88 < counted[0] / result.cost.flops < 1.02


def test_a_private_head_costs_each_picture_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    kind = {"name": "private-head", "epsilon": 4.0}
    tiny |= {"kind": kind, "epochs": 6, "evaluation": {}, "data": [{"name": "noto-emoji", "limit": 64}]}
    recipe, counted, features = Recipe.from_dict(tiny), [], private._features

    def counting(*args: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            torch.backends.mha.set_fastpath_enabled(False)  # which the counter does not see into
            try:
                result = features(*args)
            finally:
                torch.backends.mha.set_fastpath_enabled(True)
        counted.append(counter.get_total_flops())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "_features", counting)
        result = run(recipe, out=tmp_path / "a", progress=False)
    assert result.cost is not None
    assert result.cost.samples == 6 * 64
    assert result.summary["stages"][0]["notes"]["pictures"] == 64  # all have labels
    assert result.cost.flops is not None
    assert 0.95 < counted[0] / result.cost.flops <= 1  # products within a fused attention are not counted on a CPU
    longer = Recipe.from_dict({**tiny, "epochs": 12})
    assert longer.cost(samples=[planned_samples(longer.stage[0])]).flops == pytest.approx(result.cost.flops, rel=0.01)


def test_tokens_are_those_of_all_views_and_texts(tiny: dict[str, Any]) -> None:
    def tokens(**entries: Any) -> tuple[int | None, int | None]:
        (stage,) = Recipe.from_dict({**tiny, **entries}).cost().stages
        return stage.image_tokens, stage.text_tokens

    assert tokens() == (17, 12)
    assert tokens(**KINDS["classification"]) == tokens(**KINDS["masked-feature"]) == (17, 0)
    assert tokens(**KINDS["multi-view"]) == (3 * 17, 3 * 12)
    assert tokens(**KINDS["attentive-mask"]) == (2 * (1 + 12), 12)  # 3 of 4 blocks of 2 x 2 patches stay


def test_epochs_of_every_counted_kind_are_known(tiny: dict[str, Any]) -> None:
    for name in KINDS:
        recipe = Recipe.from_dict({**tiny, **KINDS[name]})
        assert planned_samples(recipe.stage[0]) == 3 * 64


def test_every_kind_says_what_it_costs_or_why_not() -> None:
    packaged = {name for name, kind in STAGES.items() if kind.__module__.startswith("binderclip.")}
    assert packaged <= set(PASSES)
    assert {name for name, kind in MODELS.items() if kind.__module__.startswith("binderclip.")} <= set(BARE)
    for name in list_recipes():
        cost = load_recipe(name).cost()
        for stage in cost.stages:
            if stage.flops is None or stage.tokens is None:
                assert stage.unknown, (name, stage.name)
                assert any(stage.unknown in line for line in str(cost).splitlines()[1:]), (name, stage.name)


def test_of_a_kind_without_an_entry_it_is_said(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "mine", lambda context: None)
    cost = Recipe.from_dict({**tiny, "kind": "mine"}).cost(samples=[64])
    assert cost.flops is None
    assert str(cost).splitlines()[-1] == "train: unknown (?): kind 'mine' has no entry in train.PASSES"


def test_nothing_is_fetched(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "reopen", lambda name: pytest.fail(f"{name} was opened"))
    recipe = Recipe.from_dict({**tiny, "model": "hf:openai/clip-vit-base-patch32"})
    assert "is not known before it is fetched" in str(recipe.cost(samples=[64]))
    kind = {"name": "masked-feature", "teacher": "open_clip:ViT-B-32/openai"}
    assert Recipe.from_dict({**tiny, "kind": kind}).cost(samples=[64]).flops is not None
    other = Recipe.from_dict({**tiny, "kind": {"name": "sam-clip", "segmenter": "hf:facebook/sam-vit-base"}})
    assert "facebook/sam-vit-base" in str(other.cost(samples=[64]))


def test_a_head_for_label_maps_is_counted_by_their_classes(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Without the folder it says so; with it the classes and the pictures that are not held out are known."""
    kind = {"name": "segmentation-head", "head": {"name": "cascade", "groups": [[3]], "layers": 1, "heads": 2}}
    data = {"name": str(tmp_path / "maps"), "hold_out": 0.5}
    document = {**tiny, "model": "small", "data": [data], "batch_size": 4, "kind": kind, "evaluation": {}}
    assert "there is no folder" in str(Recipe.from_dict(document).cost(samples=[12]))
    for folder in ("images", "labels"):
        (tmp_path / "maps" / folder).mkdir(parents=True)
    for row in range(12):
        for folder, mode in (("images", "RGB"), ("labels", "L")):
            Image.new(mode, (16, 16)).save(tmp_path / "maps" / folder / f"{row:02d}.png")
    costs = []
    for names in ("a b", "a b c d"):
        (tmp_path / "maps" / "classes.txt").write_text("\n".join(names.split()))
        recipe = Recipe.from_dict(document)
        learned = [row for row in range(12) if not _held_out(f"{row:02d}", recipe.stage[0].data[0])]
        samples = planned_samples(recipe.stage[0])
        assert samples == round(3 * len(learned) / 4) * 4
        costs.append(recipe.cost(samples=[samples]).flops)
    assert None not in costs
    assert costs[0] < costs[1]  # type: ignore[operator]


def test_stages_that_see_nothing_cost_nothing_and_others_are_unknown() -> None:
    before = [{"name": name, "data": ["openclipart"], "samples": 1, "batch_size": 1} for name in "ab"]
    averaged = {"name": "mean", "kind": {"name": "average-stages", "of": ["a", "b"]}, "samples": 1, "batch_size": 1}
    private = {**before[0], "name": "head", "kind": {"name": "private-head", "epsilon": 2.0}}
    *_, mean, head = Recipe.from_dict({"stage": [*before, averaged, private]}).cost().stages
    assert (mean.samples, mean.tokens, mean.flops) == (0, 0, 0)
    endless = {**averaged, "samples": None, "epochs": 1}
    other = Recipe.from_dict({"model": {"arch": "small"}, "stage": [*before, endless]})
    assert other.cost(samples=[1, 1, planned_samples(other.stage[2])]).stages[2].flops == 0
    assert (head.samples, head.tokens, head.flops) == (1, None, None)


@pytest.mark.parametrize(("experts", "top_k", "every"), [(4, 2, 2), (3, 1, 2), (8, 3, 3)])
def test_experts_cost_as_many_layers_as_a_token_uses_and_a_router(experts: int, top_k: int, every: int) -> None:
    """By hand: a layer of E experts, K a token, is K MLPs of 4 D H operations a token and a router of 2 D E."""
    own = {"data": "noto-emoji", "samples": 64, "batch_size": 32}
    settings = {"experts": experts, "top_k": top_k, "every": every}
    dense = Recipe.from_dict({**own, "model": "small"}).cost().stages[0]
    sparse = Recipe.from_dict({**own, "model": {"arch": "upcycled", "base": "small", **settings}}).cost().stages[0]
    assert sparse.unknown == ""
    model = load("small").backbone
    for side, tokens, blocks in (
        ("image_flops", dense.image_tokens, model.visual.trunk.blocks),
        ("text_flops", dense.text_tokens, getattr(model, "text", model).transformer.resblocks),
    ):
        more = 0
        for place in range(every - 1, len(blocks), every):
            first = next(p for p in blocks[place].mlp.parameters() if p.ndim == 2)
            hidden, width = first.shape
            more += tokens * ((top_k - 1) * 4 * width * hidden + 2 * width * experts)
        assert getattr(sparse, side) - getattr(dense, side) == more


def test_a_check_prints_the_cost_of_a_recipe_from_a_model_by_name(command: Callable[..., Any]) -> None:
    done = command("train", "refine", "--check")
    assert done.code == 0
    said = " ".join(done.err.split())
    assert "samples tokens a picture a caption tokens FLOPs share" in said
    assert "?" not in said
