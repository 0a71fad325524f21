"""p053 and the baseline: logits, adapters that begin as nothing, losses by hand, and what training does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from binderclip.data import Degradation, RealFakeSet
from binderclip.errors import DataError, UsageError
from binderclip.fit import Checkpoint
from binderclip.models import ImageTextModel
from binderclip.quality import AIDE, DeeCLIP, Detector, LinearDetector, PanopticPatchDetector, train_detector
from binderclip.quality.forensics.detector import load_image_side
from binderclip.quality.forensics.training import drawn_rows

IMAGES = torch.rand(3, 3, 40, 32, generator=torch.Generator().manual_seed(3))
CLEAN = Degradation(p=0.0)


def accuracy(detector: torch.nn.Module, data: RealFakeSet) -> float:
    with torch.no_grad():
        said = [float(detector(data.image(row)[None]).diff()) > 0 for row in range(len(data))]
    return float(np.mean([answer == bool(label) for answer, label in zip(said, data.labels, strict=True)]))


def test_the_baseline_is_a_line_through_the_scaled_embedding(tower: ImageTextModel) -> None:
    detector = LinearDetector(tower)
    crop = IMAGES[:, :, 4:36]
    unit = tower.encode_image(crop, normalize=True)
    wanted = unit * 24**0.5 @ detector.line.weight[0] + detector.line.bias
    logits = detector(IMAGES)
    assert torch.allclose(logits.diff()[:, 0], wanted, atol=1e-5)
    assert torch.allclose(logits.softmax(1)[:, 1], wanted.sigmoid(), atol=1e-6)
    assert detector.classes == ["real", "fake"]
    labels = torch.tensor([0.0, 1.0, 1.0])
    loss = detector.objective(detector.features(detector.view(IMAGES)), labels)
    by_hand = -(labels * wanted.sigmoid().log() + (1 - labels) * (1 - wanted.sigmoid()).log()).mean().detach()
    assert float(loss.detach()) == pytest.approx(float(by_hand), rel=1e-5)
    # The model that it looks through is the caller's, untouched.
    assert all(parameter.requires_grad for parameter in tower.visual.parameters())
    assert set(detector.state_dict()) == {"line.weight", "line.bias"}
    with torch.no_grad():
        assert LinearDetector(copy.deepcopy(tower)).double().model.dtype == torch.float64


def test_adapters_begin_as_the_frozen_tower_and_leave_the_callers_model_alone(tower: ImageTextModel) -> None:
    detector = PanopticPatchDetector(tower, blocks=1, width=16)
    assert detector.first == 1
    found = detector.output(IMAGES)
    pixels = tower.preprocess.normalize(IMAGES[:, :, 4:36])
    inner = tower.image_tower
    assert found.embedding is not None
    assert found.tokens is not None
    assert torch.allclose(found.embedding, inner.pre_projection(pixels), atol=1e-5)
    tokens = inner.norm(inner.run(inner.embed(pixels)).patches)
    assert torch.allclose(found.tokens, detector.project(tokens), atol=1e-5)
    assert detector.model is not tower
    assert not any("parametrizations" in name for name, _ in tower.named_parameters())
    trained = {name.split(".")[0] for name, value in detector.named_parameters() if value.requires_grad}
    assert trained == {"lora", "line", "project"}


def test_the_loss_is_the_weighted_sum_of_both(tower: ImageTextModel) -> None:
    torch.manual_seed(0)
    detector = PanopticPatchDetector(tower, contrast=0.3, width=8, sample=1000)
    features = detector.features(detector.view(IMAGES))
    labels, cells = torch.tensor([0.0, 1.0, 1.0]), (torch.arange(48).view(3, 16) % 3 == 0).float()
    output = detector.read(features)
    assert output.tokens is not None
    unit = functional.normalize(output.tokens.flatten(0, 1), dim=-1)
    squared = torch.cdist(unit, unit).square()
    same = cells.flatten()[:, None] == cells.flatten()
    cost = torch.where(same, squared, (1 - squared).clamp(min=0))
    contrast = (cost.sum() - cost.diagonal().sum()) / (48 * 47)
    image_loss = functional.binary_cross_entropy_with_logits(output.logit, labels)
    wanted = 0.3 * contrast + 0.7 * image_loss
    assert float(detector.objective(features, labels, cells)) == pytest.approx(float(wanted), rel=1e-4)
    assert float(wanted) != pytest.approx(float(image_loss), rel=1e-2)


def test_training_finds_the_grid_and_moves_only_the_trained_part(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    torch.manual_seed(0)
    detector = PanopticPatchDetector(tower, width=16, r=4)
    before = {name: value.clone() for name, value in detector.model.state_dict().items() if "parametriz" not in name}
    steps: list[int] = []
    train_detector(
        detector, pairs, steps=25, batch_size=8, lr=1e-2, degradation=CLEAN, progress=lambda done, _: steps.append(done)
    )  # fmt: skip
    assert accuracy(detector, pairs) > 0.9
    after = detector.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert steps == list(range(25))
    assert not detector.training


def test_a_detector_trained_on_real_against_real_knows_nothing(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    half = [pairs.image(row) for row in range(10)]
    other = [pairs.image(row) for row in range(10, 20)]
    torch.manual_seed(0)
    detector = LinearDetector(tower)
    train_detector(detector, RealFakeSet.from_pictures(half, {"none": half}), steps=20, batch_size=8, degradation=CLEAN)
    with torch.no_grad():
        logits = torch.cat([detector(image[None]).diff()[:, 0] for image in other])
    # The same pictures under both labels: no logit is far from even.
    assert float(logits.abs().max()) < 1.5


class Stopped(Exception):
    """In place of Ctrl-C."""


@pytest.mark.parametrize(
    "make",
    [
        lambda tower: LinearDetector(tower),
        lambda tower: PanopticPatchDetector(tower, width=8),
        lambda tower: DeeCLIP(tower, layers=[1, 2]),
        lambda tower: AIDE(tower),
    ],
    ids=["linear", "panoptic", "deeclip", "aide"],
)
def test_training_that_was_stopped_ends_with_the_same_weights(
    tower: ImageTextModel, pairs: RealFakeSet, tmp_path: Path, make: Callable[[ImageTextModel], Detector]
) -> None:
    def trained(folder: str, stop: int) -> Detector:
        torch.manual_seed(0)
        detector = make(tower)

        def progress(step: int, steps: int) -> None:
            read.append(step)
            if step == stop:
                raise Stopped

        train_detector(
            detector, pairs, steps=6, batch_size=6, seed=1, lr=1e-2, progress=progress,
            checkpoint=Checkpoint(tmp_path / folder, every=2),
        )  # fmt: skip
        return detector

    read: list[int] = []
    whole = trained("whole", 99).state_dict()
    with pytest.raises(Stopped):
        trained("part", 5)
    read.clear()
    part = trained("part", 99).state_dict()
    assert read == [4, 5]  # what the checkpoint of step 4 knows is not read again
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


def test_the_same_seed_gives_the_same_detector(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        detector = LinearDetector(tower)
        train_detector(detector, pairs, steps=3, batch_size=4, seed=seed)
        return detector.line.weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_rows_are_balanced_or_triplets() -> None:
    labels = np.array([0] * 7 + [1] * 3)
    rng = np.random.default_rng(0)
    assert labels[drawn_rows("balanced", labels, 8, rng)].tolist() == [0] * 4 + [1] * 4
    anchors, positives, negatives = labels[drawn_rows("triplets", labels, 60, rng)].reshape(3, 20)
    assert (anchors == positives).all()
    assert (anchors != negatives).all()
    assert 4 < anchors.sum() < 16


def test_what_does_not_fit_is_refused(tower: ImageTextModel, pairs: RealFakeSet) -> None:
    with pytest.raises(UsageError, match="share of the loss"):
        PanopticPatchDetector(tower, contrast=2)
    with pytest.raises(UsageError, match="multiple of the patch of 8"):
        LinearDetector(tower, side=20)
    with pytest.raises(UsageError, match="no image-text model"):
        load_image_side("lite0")
    alone = RealFakeSet.from_pictures([pairs.image(0)], {"a": [pairs.image(20), pairs.image(21)]})
    with pytest.raises(DataError, match="no pair is aligned"):
        train_detector(PanopticPatchDetector(tower, width=8), alone, steps=1)
    other = RealFakeSet.from_pictures([pairs.image(0)], {"a": [pairs.image(20)[:, :36]]})
    with pytest.raises(DataError, match="exchanged patches have to show the same"):
        train_detector(PanopticPatchDetector(tower, width=8), other, steps=1)
    with pytest.raises(UsageError, match="batch_size"):
        train_detector(LinearDetector(tower), pairs, steps=1, batch_size=1)
