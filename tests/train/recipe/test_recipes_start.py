"""Every bundled recipe is started, at a tiny size and with made-up teachers: nothing that it trains stands still.

Sizes are cut (pictures, views, texts, steps), layers are not: the models are those of the recipes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binderclip.models.operations import count_operations
from binderclip.train import Recipe, StageContext, list_recipes, load_recipe, run
from binderclip.train.bundled import kinds, second, teachers, tower
from binderclip.train.bundled.data.corpus import Corpus
from binderclip.train.bundled.data.photographs import RealPictures
from binderclip.train.bundled.data.pictures import PackPictures
from binderclip.train.engine import context as context_module

# A factor that starts at zero lets its partner's gradient through from the second step on.
STEPS = 4
# Too large to start on any machine that runs tests; their scaled versions are started.
PAPER_SCALE = ("clipa", "clipa-v2", "a-clip", "basic", "clip-rocket", "eva-clip", "experts", "mammo-clip")
COLOURS = ("red", "green", "blue", "black", "white", "pink")
THINGS = ("house", "tree", "cat", "dog", "cup", "ship", "star", "bird")
CAPTIONS = tuple(f"a {colour} {thing}" for colour in COLOURS for thing in THINGS)
SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "wa")
# Enough further words for a vocabulary wider than the text tower.
WORDS = tuple(a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES[:6])
PIECES = 400

DRAWN: dict[str, Any] = {"names": ["cat", "dog"], "backgrounds": ["noise"]}

# What is cut of each kind of stage.
TINY: dict[str, dict[str, Any]] = {
    "contrastive": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8},
    "attentive-mask": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8, "kind": {"hidden": 32}},
    "multi-view": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8, "kind": {"hidden": 32, "width": 16}},
    "masked-feature": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8},
    "experts": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8},
    "hard-negatives": {"data": [{"name": "openclipart", "limit": 64}], "batch_size": 8, "kind": {"count": 2}},
    "slip-head": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8},
    "classification": {"data": [{"name": "noto-emoji", "limit": 32}], "batch_size": 8},
    "distil-text": {"batch_size": 16},
    "closed-form": {"batch_size": 16},
    "average-stages": {"batch_size": 1},
    "image-tower": {"batch_size": 20, "kind": {"views": 1, "scenes": 16, "cutouts": 2, "queue": 32}},
    "pooled-head": {"batch_size": 16, "kind": {"queue": 32}},
    "slow-features": {"batch_size": 2, "kind": {"pictures": 8, **DRAWN}},
    "dino": {"batch_size": 2, "kind": DRAWN},
    # Of three masks the best one learns: enough objects that each is the best of one.
    "promptable": {"batch_size": 2, "image_size": 64, "kind": {"objects": 3, **DRAWN}},
    "sam-clip": {
        "batch_size": 4,
        "image_size": 64,
        "data": [{"name": "noto-emoji", "limit": 16}],
        "kind": {"layers": 1, "hidden": 16, "rehearsed": 1, "prompts": 2, "sides": [32]},
    },
    "segclip": {
        "batch_size": 4,
        "image_size": 64,
        "data": [{"name": "noto-emoji", "limit": 16}],
        "kind": {"groups": 3, "layers": 1},
    },
    "alpha-clip": {
        "batch_size": 4,
        "data": [{"name": "label-maps", "limit": 8, "options": {"source": "scenes"}}],
        "kind": {"full": 0.0},
    },
    "segmentation-head": {
        "batch_size": 4,
        "data": [{"name": "label-maps", "limit": 8, "options": {"source": "scenes"}}],
        "kind": {
            "head": {
                "name": "mta-clip",
                "queries": 16,
                "width": 16,
                "layers": 3,
                "heads": 2,
                "hidden": 32,
                "n_ctx": 2,
                "prompts": 2,
                "blocks": 1,
                "size": 64,
            }
        },
    },
}


class FakeSentences:
    """Unit vectors that depend on the words, so that captions which share a word are alike."""

    def __init__(self, path: Path) -> None:
        pass

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return nn.functional.normalize(torch.stack([sum(map(_vector, text.split())) for text in texts]), dim=1)


def _vector(word: str) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return torch.randn(384, generator=torch.Generator().manual_seed(seed))


def fake_lite(name: str, paths: Mapping[str, str] | None = None) -> dict[str, torch.Tensor]:
    """An untrained EfficientNet-Lite with the statistics of its norms taken from noise, so that no layer is silent."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net.state_dict()


def fake_pictures(packs: Path, names: Sequence[str], split: str) -> PackPictures:
    generator = torch.Generator().manual_seed(len(split))
    rgba = torch.randint(0, 256, (len(CAPTIONS), 4, 8, 8), generator=generator, dtype=torch.uint8)
    rgba = rgba.repeat_interleave(8, 2).repeat_interleave(8, 3)
    rgba[:, 3] = 255
    rgba[:, 3, :8] = 0
    source = tuple(names[i % len(names)] for i in range(len(CAPTIONS)))
    return PackPictures(rgba, CAPTIONS, torch.zeros(len(CAPTIONS), dtype=torch.bool), source, CAPTIONS)


def fake_real(*where: Any) -> RealPictures:
    crops = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    cutouts = fake_pictures(Path(), ["x"], "cutouts").rgba[:6].repeat_interleave(2, 2).repeat_interleave(2, 3)
    return RealPictures(crops, ("",) * 8, cutouts, tuple(f"a grey {thing}" for thing in THINGS[:6]))


@pytest.fixture
def no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe takes is counted elsewhere, in as much time as a few steps take."""
    monkeypatch.setattr(Recipe, "cost", lambda *args, **settings: None)


@pytest.fixture
def made_up_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what the recipes of `small` ask for and a machine need not have."""
    corpus = Corpus((*CAPTIONS, *WORDS), len(CAPTIONS))
    monkeypatch.setattr(kinds, "_corpus", lambda *args, **settings: corpus)
    monkeypatch.setattr(kinds, "imagenet_names", lambda: [[f"class {i}"] for i in range(1000)])
    monkeypatch.setattr(tower, "_real", fake_real)
    monkeypatch.setattr(tower, "without_lookalikes", lambda real, *args: real)
    for module in (kinds, tower, second):
        monkeypatch.setattr(module, "find_part", lambda name, paths=None: Path(name))
        monkeypatch.setattr(module, "SentenceTeacher", FakeSentences)
        monkeypatch.setattr(module, "lite_state", fake_lite)
        monkeypatch.setattr(module, "read_pictures", fake_pictures)


def tiny(name: str) -> Recipe:
    """The recipe with little data and few steps."""
    document = load_recipe(name).document()
    document["evaluation"] = {}
    if isinstance(document["model"], dict) and document["model"]["arch"] == "small":
        document["model"]["vocabulary"] = PIECES
    for stage in document["stage"]:
        kind = stage["kind"] if isinstance(stage["kind"], dict) else {"name": stage["kind"]}
        change = dict(TINY[kind["name"]])
        stage["kind"] = {**kind, **change.pop("kind", {})}
        # No warm-up: a rate near zero would leave a factor that starts at zero there for the few steps there are.
        stage.update({**change, "epochs": None, "samples": STEPS * change["batch_size"], "warmup": 0.0})
    return Recipe.from_dict(document)


# Queries and keys of the last block that both start at zero, as they once did here, never move.
@pytest.mark.parametrize("name", [name for name in list_recipes() if name not in PAPER_SCALE])
@pytest.mark.usefixtures("made_up_teachers", "no_costs")
def test_nothing_that_is_trained_stands_still(name: str, tmp_path: Path) -> None:
    result = run(tiny(name), out=tmp_path / "run", progress=False)
    trained = [stage for stage in result.stages if stage.history]
    assert trained
    assert all(stage.steps == STEPS for stage in trained)
    assert {stage.name: stage.zero_gradients for stage in trained} == {stage.name: [] for stage in trained}


# A linear head is as small as its loss here; in the last stage of sam-clip one of two sides is drawn for each of four
# steps, and their mean is counted.
BOUNDS = {"pooled-head": (1.0, 1.15), "resolution": (0.8, 1.2)}
OF_THEIR_OWN = ("small", "small-b", "small-dino", "small-sam", "sam-clip", "segclip", "segmentation-head", "alpha-clip")


@pytest.mark.parametrize("name", OF_THEIR_OWN)
@pytest.mark.usefixtures("made_up_teachers")
def test_stages_of_their_own_cost_what_torch_counts(name: str, tmp_path: Path) -> None:
    """Every step of a run under torch's counter: attention as products that it sees, gradients by torch's own ways."""
    document, counted, fit = tiny(name).document(), {}, StageContext.fit
    for stage in document["stage"]:
        if stage["kind"]["name"] == "promptable":
            stage["kind"]["rounds"] = [2, 2]  # else as many corrections as are drawn
    recipe = Recipe.from_dict(document)

    def counting(context: StageContext, *args: Any, **settings: Any) -> Any:
        results: list[Any] = []
        # torch's counter, but for grouped convolutions, of which it is wrong: closed forms hold this one
        counted[context.index] = count_operations(lambda: results.append(fit(context, *args, **settings)))
        return results[0]

    before = recipe.cost()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageContext, "fit", counting)
        patch.setattr(context_module, "fast_gradients", contextlib.nullcontext)
        result = run(recipe, out=tmp_path / "run", progress=False)
    assert result.cost is not None
    for index, (stage, cost) in enumerate(zip(recipe.stage, result.cost.stages, strict=True)):
        kind = stage.kind if isinstance(stage.kind, str) else stage.kind["name"]
        assert before.stages[index].flops == cost.flops  # without a model that is open
        if kind in ("distil-text", "closed-form"):
            assert cost.flops is None
            assert cost.unknown in str(result.cost)
        elif index in counted:
            assert cost.flops is not None, cost.unknown
            assert cost.tokens is not None
            low, high = BOUNDS.get(stage.name if kind == "sam-clip" else kind, (0.98, 1.02))
            assert low < counted[index] / cost.flops < high, (kind, counted[index] / cost.flops)


def test_every_kind_of_part_is_made_up() -> None:
    assert set(teachers.PARTS) == {"lite0", "lite1", "lite2", "minilm", "wordnet"}
