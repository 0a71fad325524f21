"""p135: DeeCLIP: which layers, the forward pass written out, labels in the order of the rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.data import Degradation, RealFakeSet
from binderclip.errors import UsageError
from binderclip.losses import TokenTriplet
from binderclip.models import DeeFuser, ImageTextModel
from binderclip.quality import DeeCLIP, train_detector
from binderclip.quality.forensics.deeclip import LAYERS, scaled_layers

IMAGES = torch.rand(3, 3, 40, 32, generator=torch.Generator().manual_seed(0))
SMALL = {"layers": (0, 1, 2), "width": 12, "r": 2, "lora_alpha": 4.0}


@pytest.fixture
def deeclip(tower: ImageTextModel) -> DeeCLIP:
    torch.manual_seed(0)
    return DeeCLIP(tower, **SMALL).eval()  # type: ignore[arg-type]


def test_layers_are_the_paper_s_and_scale_with_the_depth() -> None:
    assert scaled_layers(24) == list(LAYERS)
    assert scaled_layers(12)[-1] == 11
    assert scaled_layers(4) == [1, 2, 3]
    with pytest.raises(UsageError, match="no earlier layers"):
        scaled_layers(2)


def test_the_forward_pass_is_the_tower_s_states_fused(deeclip: DeeCLIP, tower: ImageTextModel) -> None:
    assert isinstance(deeclip.fuser, DeeFuser)
    pixels = tower.preprocess(IMAGES)
    inner, states = tower.image_tower, []
    x = inner.embed(pixels).x  # hidden state 0: what enters the first block
    states.append(x)
    for block in inner.blocks:
        x = block(x)
        states.append(x)
    first, second, last = (state[:, 1:] for state in states)  # without the class token
    fused = deeclip.fuser(torch.cat([first, second], 1), last)
    unit = deeclip.project(fused)
    unit = unit / unit.norm(dim=-1, keepdim=True)
    found = deeclip.output(IMAGES)
    assert found.tokens is not None
    assert torch.allclose(found.tokens, unit, atol=1e-4)
    assert torch.allclose(found.logit, deeclip.line(unit.mean(1))[:, 0], atol=1e-4)


def test_the_loss_has_labels_in_the_order_of_the_rows(deeclip: DeeCLIP) -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])  # anchors, positives, negatives
    features = deeclip.features(deeclip.view(images))
    found = deeclip.read(features)
    assert found.tokens is not None
    roles = [found.tokens[start : start + 2] for start in (0, 2, 4)]
    wanted = TokenTriplet()(*roles) + 2 * functional.binary_cross_entropy_with_logits(found.logit, labels)
    assert float(deeclip.objective(features, labels).detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    with pytest.raises(UsageError, match="no triplets"):
        deeclip.objective(features, labels[:4])


def test_adapters_that_are_merged_give_the_same(deeclip: DeeCLIP) -> None:
    with torch.no_grad():
        for parameter in deeclip.lora.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        before = deeclip(IMAGES)
        deeclip.lora.merge()
        assert torch.allclose(deeclip(IMAGES), before, atol=1e-5)


def test_training_finds_the_grid(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    torch.manual_seed(0)
    detector = DeeCLIP(tower, **SMALL, view="crop")  # type: ignore[arg-type]
    train_detector(detector, pairs, steps=20, batch_size=9, lr=1e-2, degradation=Degradation(p=0.0))
    with torch.no_grad():
        logits = torch.cat([detector(pairs.image(row)[None]).diff()[:, 0] for row in range(40)])
    assert float(((logits > 0).numpy() == pairs.labels).mean()) > 0.9


def test_layers_that_are_not_there_are_refused(tower: ImageTextModel) -> None:
    for layers in ([1], [0, 3], [1, 1, 2]):
        with pytest.raises(UsageError, match="two or more different ones of 0"):
            DeeCLIP(tower, layers=layers)
