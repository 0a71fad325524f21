"""p168: AIDE: which window goes where, the mean of four, what learns and what does not."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from binderclip.data import Degradation, RealFakeSet, dct_patches
from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import AIDE, NoiseExpert, train_detector

IMAGES = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
SMALL = {"channels": (4, 4, 4, 4), "window": 16, "stride": 8, "patch_side": 16, "semantic_width": 6, "hidden": 8}


@pytest.fixture
def aide(tower: ImageTextModel) -> AIDE:
    torch.manual_seed(0)
    return AIDE(tower, **SMALL).eval()  # type: ignore[arg-type]


def test_the_joint_vector_is_the_projection_beside_the_mean_of_four_windows(aide: AIDE, tower: ImageTextModel) -> None:
    logits, joint = aide.logits_of_both(aide.features(aide.view(IMAGES)))
    found = dct_patches(IMAGES, window=16, stride=8, k=2)
    four = [
        aide.low(found.low[:, 0]),
        aide.low(found.low[:, 1]),
        aide.high(found.high[:, 0]),
        aide.high(found.high[:, 1]),
    ]
    shown = aide.project(tower.encode_image(IMAGES, size=32))
    assert torch.allclose(joint, torch.cat([shown, sum(four) / 4], 1), atol=1e-5)  # type: ignore[operator]
    assert torch.allclose(aide(IMAGES).diff(), logits.diff(), atol=1e-5)
    labels = torch.tensor([0.0, 1.0, 1.0])
    loss = aide.objective(aide.features(aide.view(IMAGES)), labels)
    assert float(loss.detach()) == pytest.approx(
        float(functional.cross_entropy(logits, labels.long()).detach()), rel=1e-5
    )
    # Windows keep the picture's resolution: a finer copy of the picture has other windows.
    assert aide.view(IMAGES)[0].shape == (3, 2, 3, 16, 16)


def test_the_two_networks_are_distinct_and_the_frozen_parts_get_no_gradient(aide: AIDE, tower: ImageTextModel) -> None:
    tower.zero_grad()
    aide.objective(aide.features(aide.view(IMAGES)), torch.tensor([0.0, 1.0, 1.0])).backward()
    low, high = next(aide.low.parameters()), next(aide.high.parameters())
    assert low.grad is not None
    assert high.grad is not None
    assert not torch.equal(low, high)
    assert not torch.equal(low.grad, high.grad)
    assert aide.project.weight.grad is not None
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert not any("filters" in name for name, _ in aide.named_parameters())


def test_as_released_the_projection_keeps_its_random_start(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    for released in (False, True):
        torch.manual_seed(0)
        detector = AIDE(tower, released=released, **SMALL)  # type: ignore[arg-type]
        before = detector.project.weight.detach().clone()
        train_detector(detector, pairs, steps=1, batch_size=4, degradation=Degradation(p=0.0))
        assert torch.equal(before, detector.project.weight) == released


def test_one_expert_alone_does_not_read_the_other(tower: ImageTextModel) -> None:
    torch.manual_seed(0)
    noise, shown = (AIDE(tower, experts=[name], **SMALL).eval() for name in ("noise", "semantic"))  # type: ignore[arg-type]
    low, high, embedding = shown.features(shown.view(IMAGES))
    other = torch.rand_like(low), torch.rand_like(high), torch.rand_like(embedding)
    assert torch.equal(noise.read((low, high, embedding)).logit, noise.read((low, high, other[2])).logit)
    assert not torch.equal(noise.read((low, high, embedding)).logit, noise.read((other[0], high, embedding)).logit)
    assert torch.equal(shown.read((low, high, embedding)).logit, shown.read((*other[:2], embedding)).logit)
    assert noise.features(noise.view(IMAGES))[2].shape == (3, 0)


def test_the_noise_of_a_flat_window_is_none_and_the_paper_s_network_is_a_resnet_50() -> None:
    torch.manual_seed(0)
    expert = NoiseExpert((1, 1, 1, 1), (4, 4, 4, 4), bottleneck=False, side=32).eval()
    normalised = (torch.full((1, 3, 32, 32), 0.3) - expert.mean) / expert.std
    assert float(expert.filters(normalised)[..., 2:-2, 2:-2].abs().max()) < 1e-5
    with torch.device("meta"):
        whole = NoiseExpert((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, side=256)
    assert whole.width == 2048
    # torchvision's ResNet-50 without its last layer, with 27 more channels in its stem.
    assert sum(p.numel() for p in whole.parameters()) == 25_557_032 - 2_049_000 + 27 * 64 * 49


def test_training_finds_the_grid(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    torch.manual_seed(0)
    detector = AIDE(tower, experts=["noise"], **SMALL)  # type: ignore[arg-type]
    train_detector(detector, pairs, steps=12, batch_size=8, lr=5e-3, degradation=Degradation(p=0.0))
    with torch.no_grad():
        logits = torch.cat([detector(pairs.image(row)[None]).diff()[:, 0] for row in range(40)])
    # Twelve steps do not settle the running means of batch norms, so the order counts, not the threshold.
    assert roc_auc_score(pairs.labels, logits) > 0.95


def test_what_does_not_fit_is_refused(tower: ImageTextModel, aide: AIDE) -> None:
    with pytest.raises(UsageError, match="one or both of noise, semantic"):
        AIDE(tower, experts=["taste"])
    with pytest.raises(DataError, match="12 x 40 pixels: smaller than a window of 16"):
        aide(torch.zeros(1, 3, 12, 40))
