"""The stage of several views: what its step computes, what it trains, and that a killed one goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.data import TextAugment
from binderclip.errors import UsageError
from binderclip.losses import CrossModalSimSiam, clip_rocket, mammo_clip
from binderclip.models import TokenIds, load
from binderclip.models.towers import open_image_tower, open_text_tower
from binderclip.train import Recipe, build_model, run
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.feed.captions import augmented_texts
from binderclip.train.stages.multi_view import POOLED, MultiViewStep

KIND = {"name": "multi-view", "hidden": 32, "width": 16}
CAPTIONS = ["a red cat", "a dog", "cat", "red dog"]


def stage(tiny: dict[str, Any], loss: Any = "clip-rocket", **kind: Any) -> Recipe:
    return Recipe.from_dict({**tiny, "kind": {**KIND, **kind}, "loss": loss, "epochs": 1, "evaluation": {}})


def step_of(tiny: dict[str, Any], local: int = 2, **settings: Any) -> tuple[MultiViewStep, TrainingBatch]:
    model = build_model(tiny["model"], seed=0, captions=lambda: CAPTIONS)
    torch.manual_seed(0)
    loss = settings.pop("loss", None) or clip_rocket(n_local=local)
    module = MultiViewStep(model, loss, local=local, hidden=32, width=16, **settings)
    images = torch.randn(4, 3, 32, 32 * (1 + local), generator=torch.Generator().manual_seed(0))
    texts = [model.tokenize([f"{caption} {word}" for caption in CAPTIONS]) for word in ("red", "dog")[:local]]
    rows = torch.arange(4)
    return module, TrainingBatch(images, model.tokenize(CAPTIONS), rows, rows, texts=texts)


def cross_entropy(a: torch.Tensor, b: torch.Tensor, scale: float, smoothing: float) -> torch.Tensor:
    logits = scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    rows = torch.arange(len(a))
    return sum(F.cross_entropy(x, rows, label_smoothing=smoothing) for x in (logits, logits.T)) / 2  # type: ignore[return-value]


def test_the_step_is_the_model_on_the_first_view_and_heads_on_the_others(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny)
    total, parts = module(batch)
    first, *others = batch.images.chunk(3, dim=3)
    model = module.model
    image, text = model.encode_pixels(first.contiguous()), model.encode_text(batch.tokens)
    whole = cross_entropy(image, text, 1 / 0.07, 0.0)
    image_tower, text_tower = open_image_tower(model.backbone), open_text_tower(model.backbone)
    images = [module.heads["image"](image_tower.pre_projection(view)) for view in others]
    texts = [module.heads["text"](text_tower.pool(text_tower.run(text_tower.embed(t)))) for t in batch.texts]
    local = sum(cross_entropy(a, b, 10.0, 0.1) for a in images for b in texts) / 4
    torch.testing.assert_close(total, (whole + 2 * local) / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["loss/image-text"], whole.detach() / 3, rtol=1e-4, atol=1e-5)


def test_without_local_views_it_is_a_plain_step(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, local=0)
    assert not len(module.heads)
    total, _ = module(batch)
    image, text = module.model.encode_pixels(batch.images), module.model.encode_text(batch.tokens)
    torch.testing.assert_close(total, cross_entropy(image, text, 1 / 0.07, 0.0), rtol=1e-4, atol=1e-5)


def test_two_views_and_texts_through_the_model_are_mammo_clips_features(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny, local=1)
    module = MultiViewStep(module.model, mammo_clip(), own=2, local=0)
    assert not len(module.heads)
    total, parts = module(batch)
    images = [module.model.encode_pixels(view.contiguous()) for view in batch.images.chunk(2, dim=3)]
    texts = [module.model.encode_text(tokens) for tokens in (batch.tokens, *batch.texts)]
    across = sum(cross_entropy(a, b, 1 / 0.07, 0.0) for a in images for b in texts) / 4
    expected = across + cross_entropy(*images, 1 / 0.07, 0.0) + 0.5 * cross_entropy(*texts, 1 / 0.07, 0.0)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    assert {"loss/image-image", "loss/text-text"} <= set(parts)


def test_where_nothing_looks_inside_the_towers_they_may_be_of_any_kind(tiny: dict[str, Any]) -> None:
    tiny["model"]["vision"] = {
        "image_size": 32, "timm_model_name": "tf_efficientnet_b0", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear",
    }  # fmt: skip
    model = build_model(tiny["model"], seed=0, captions=lambda: CAPTIONS)
    model.backbone.visual.eval()  # its batch normalisation sees views apart or together
    views = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens, rows = model.tokenize(CAPTIONS), torch.arange(4)
    batch = TrainingBatch(torch.cat(list(views), 3), tokens, rows, rows, texts=[tokens])
    total, _ = MultiViewStep(model, mammo_clip(i2i=0, t2t=0), own=2, local=0)(batch)
    text = model.encode_text(tokens)
    expected = sum(cross_entropy(model.encode_pixels(view), text, 1 / 0.07, 0.0) for view in views) / 2
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_terms_see_what_the_towers_say_before_any_projection(tiny: dict[str, Any]) -> None:
    term = CrossModalSimSiam(pairs=POOLED[:1])
    module, batch = step_of(tiny, loss=clip_rocket(terms=[term]))
    total, parts = module(batch)
    first = batch.images.chunk(3, dim=3)[0]
    image = open_image_tower(module.model.backbone).pre_projection(first)
    tower = open_text_tower(module.model.backbone)
    text = tower.pool(tower.run(tower.embed(batch.tokens)))
    expected = (2 - 2 * F.cosine_similarity(image, text, dim=1)).mean()
    torch.testing.assert_close(parts["loss/simsiam"], expected.detach(), rtol=1e-4, atol=1e-5)
    assert total.requires_grad


def test_a_momentum_copy_of_the_towers_makes_the_targets(tiny: dict[str, Any]) -> None:
    term = CrossModalSimSiam(pairs=POOLED[:1], momentum=0.25)
    module, batch = step_of(tiny, loss=clip_rocket(terms=[term]), momentum=0.25)
    before = [p.detach().clone() for p in module.momentum.copied.parameters()]
    with torch.no_grad():
        for parameter in module.model.backbone.parameters():
            parameter.mul_(1.1)
    _, parts = module(batch)
    for mine, old, new in zip(
        module.momentum.copied.parameters(), before, module.model.backbone.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, 0.25 * old + 0.75 * new)
    first = batch.images.chunk(3, dim=3)[0]
    said = []
    for backbone in (module.model.backbone, module.momentum.copied):
        tower = open_text_tower(backbone)
        said.append(
            (open_image_tower(backbone).pre_projection(first), tower.pool(tower.run(tower.embed(batch.tokens))))
        )
    (image, text), (other_image, other_text) = said
    rows = [2 - 2 * F.cosine_similarity(a, b, dim=1) for a, b in ((image, other_text), (text, other_image))]
    torch.testing.assert_close(parts["loss/simsiam"], torch.stack(rows).mean().detach(), rtol=1e-4, atol=1e-5)


def test_features_that_are_not_finite_are_a_nan_that_the_loop_names(tiny: dict[str, Any]) -> None:
    module, batch = step_of(tiny)
    with torch.no_grad():
        next(module.model.backbone.text.parameters()).fill_(float("nan"))
    total, parts = module(batch)
    assert bool(total.isnan())
    assert total.requires_grad
    assert parts == {}


def test_texts_of_a_batch_are_the_augmentations_by_their_keys(tiny: dict[str, Any]) -> None:
    augment = TextAugment(stopword=1.0, synonym=0.0, swap=0.5, delete=0.0, seed=4)
    captions = ["the old red house", "a dog in a big car"]
    tokenize = build_model(tiny["model"], seed=0, captions=lambda: captions).tokenize
    expected = [tokenize(augment(captions, [f"x/{n}", f"y/{n}"], 3)).ids for n in (0, 1)]
    found = augmented_texts(augment, 2, tokenize)(captions, ["x", "y"], 3)
    assert [tokens.ids.tolist() for tokens in found] == [ids.tolist() for ids in expected]
    seen = []

    def shorten(tokens: TokenIds, keys: Sequence[str], epoch: int) -> TokenIds:
        seen.append((tokens.ids.tolist(), list(keys), epoch))
        return tokens[:1]

    cut = augmented_texts(augment, 1, tokenize, shorten)(captions, ["x", "y"], 3)
    assert seen == [(expected[0].tolist(), ["x/0", "y/0"], 3)]
    assert len(cut[0]) == 1


TERMS = [
    {"name": "cross-modal-barlow", "weight": 0.5, "hidden": 16, "width": 8},
    {"name": "cross-modal-simsiam", "momentum": 0.9, "hidden": 16, "width": 8},
    {"name": "cross-modal-swav", "eps": 0.2},
]


def test_a_run_trains_everything_and_leaves_a_plain_model(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(stage({**tiny, "terms": TERMS}), out=tmp_path / "a", progress=False)
    history = result.stages[0].history
    assert {f"loss/{name}" for name in ("image-text", "barlow", "simsiam", "swav")} <= set(history)
    assert np.isfinite(history["loss"]).all()
    assert result.stages[0].zero_gradients == []
    before, after = (load(tmp_path / part).backbone.state_dict() for part in ("a/stages/start", "a"))
    assert not torch.equal(before["visual.proj"], after["visual.proj"])
    assert set(before) == set(after)


def test_a_run_with_mammo_clips_loss_trains(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(stage(tiny, loss={"name": "mammo-clip", "t2t": 0.25}), out=tmp_path / "a", progress=False)
    history = result.stages[0].history
    assert {f"loss/{pair}" for pair in ("image-text", "image-image", "text-text")} <= set(history)
    assert np.isfinite(history["loss"]).all()
    assert result.stages[0].zero_gradients == []


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(stage(tiny | {"checkpoint_every": 2, "terms": TERMS[1:2]}), at=3)


def test_what_cannot_be_done(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="micro_batch: stages of kind 'multi-view' take no such entry"):
        stage({**tiny, "micro_batch": 4})
    with pytest.raises(UsageError, match="no augmentation 'crop'"):
        stage(tiny, strong={"crop": 0.5})
    with pytest.raises(UsageError, match="stopword is 3"):
        stage(tiny, text={"stopword": 3.0})
    with pytest.raises(UsageError, match="image_tokens: stages of kind 'multi-view' take no such entry"):
        stage({**tiny, "image_tokens": {"name": "random", "keep": 0.5}})
    with pytest.raises(UsageError, match="needs a loss of several views"):
        stage(tiny, loss="clip")
    with pytest.raises(UsageError, match='write kind = "multi-view"'):
        Recipe.from_dict({**tiny, "loss": "clip-rocket"})
