from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.losses import METHODS, clip, contrastive_step


def encoders(dropout=0.0):
    torch.manual_seed(0)
    return {
        name: nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 5)).double()
        for name in ("image", "text")
    }


def teachers(batch):
    """Features of a frozen model beside the encoders' own, for the losses that compare with them."""
    generator = torch.Generator().manual_seed(5)
    return {f"teacher_{n}": torch.randn(11, 5, generator=generator, dtype=torch.float64) for n in batch}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(11, 6, generator=generator, dtype=torch.float64) for name in ("image", "text")}


def grads(models, loss):
    return [p.grad.clone() for m in (*models.values(), loss) for p in m.parameters() if p.requires_grad]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_batch", [1, 4, 10, 11, 50])
@pytest.mark.parametrize("chunk", [3, None])
def test_equals_the_unsplit_batch(batch, method, micro_batch, chunk):
    results = []
    for size in (micro_batch, None):
        models, loss = encoders(), METHODS[method](chunk=chunk).double()
        every = models | dict.fromkeys(teachers(batch), nn.Identity()) | {"negatives": models["text"]}
        every |= {f"{name}_local": models[name] for name in batch}
        several = {
            "negatives": torch.stack([batch["text"].roll(1, 0), batch["image"]], 1),
            **{f"{name}_local": torch.stack([2 - batch[name], batch[name] + 1], 1) for name in batch},
        }
        given = batch | teachers(batch) | several
        if method == "mammo-clip":
            every, given = models, {name: several[f"{name}_local"] for name in batch}
        output = contrastive_step(every, given, loss, size)
        results.append((output.total, *grads(models, loss)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_both_passes_draw_the_same_dropout(batch):
    models, loss = encoders(dropout=0.5), clip().double()
    torch.manual_seed(7)
    output = contrastive_step(models, batch, loss, 4)
    state = torch.get_rng_state()
    split = grads(models, loss)

    # the same pieces in one ordinary graph, from the same seed
    models, loss = encoders(dropout=0.5), clip().double()
    torch.manual_seed(7)
    parts = [{name: models[name](batch[name][s : s + 4]) for name in models} for s in range(0, 11, 4)]
    expected = loss(*(torch.cat([part[name] for part in parts]) for name in ("image", "text")))
    expected.backward()
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(output.total, expected.total.detach(), rtol=0, atol=1e-12)
    for one, other in zip(split, grads(models, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_one_function_for_all_features_and_a_scale_from_outside(batch):
    models = encoders()
    log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    results = []
    for size in (3, None):
        models, log_scale.grad = encoders(), None
        contrastive_step(
            lambda part, models=models: {name: models[name](part[name]) for name in part},
            batch,
            clip(),
            size,
            logit_scale=log_scale.exp(),
        )
        results.append([log_scale.grad.clone(), *(p.grad for m in models.values() for p in m.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_frozen_tower_and_scaled_backward(batch):
    results = []
    for size, factor in ((4, 8.0), (None, 1.0)):
        models, loss = encoders(), clip().double()
        models["text"].requires_grad_(False)
        contrastive_step(models, batch, loss, size, backward=lambda total, k=factor: (k * total).backward())
        assert all(p.grad is None for p in models["text"].parameters())
        results.append([p.grad / factor for p in models["image"].parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_autocast_does_not_swallow_the_weights_gradients(batch):
    results = []
    for size in (4, None):
        models, loss = encoders(), clip()
        models = {name: model.float() for name, model in models.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            contrastive_step(models, {name: value.float() for name, value in batch.items()}, loss, size)
        results.append(grads(models, loss))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)
        assert one.abs().sum() > 0


def test_wrong_batches(batch):
    with pytest.raises(errors.UsageError, match="same number of rows"):
        contrastive_step(encoders(), {**batch, "text": batch["text"][:3]}, clip(), 2)
    with pytest.raises(errors.UsageError, match="micro_batch"):
        contrastive_step(encoders(), batch, clip(), 0)
    with pytest.raises(errors.UsageError, match="no entry"):
        contrastive_step(encoders(), {"image": batch["image"]}, clip(), 2)
