"""The small mask transformer of p180 (ReMaX): disjoint segments, a head that serves training alone, and learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.segment import PanopticNet, load_panoptic, save_panoptic, train_panoptic
from binderclip.segment.metrics import panoptic_quality
from binderclip.segment.trained.panoptic import _segments


def boards(count: int, seed: int) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Grey pictures of 32 px with a red square, a blue one, or both."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 + 0.02 * torch.randn(count, 3, 32, 32, generator=generator)
    labels, masks = [], []
    for row in range(count):
        own = [[0], [1], [0, 1]][row % 3]
        drawn = torch.zeros(len(own), 32, 32, dtype=torch.bool)
        for place, label in enumerate(own):
            y, x = torch.randint(0, 5, (2,), generator=generator).tolist()
            at = (slice(4 * y, 4 * y + 12), slice(16 * label + x, 16 * label + x + 12))
            drawn[(place, *at)] = True
            images[(row, slice(None), *at)] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[label][:, None, None]
        labels.append(torch.tensor(own))
        masks.append(drawn)
    return images, labels, masks


@pytest.mark.parametrize(("remask", "reclass"), [(False, 0.0), (True, 0.1)])
def test_it_learns_squares_with_and_without_relaxation(remask: bool, reclass: float) -> None:
    trained = train_panoptic(
        *boards(24, 0), classes=2, remask=remask, reclass=reclass, queries=4, width=32, layers=2, steps=90, batch=8,
        lr=3e-3,
    )  # fmt: skip
    assert np.mean(trained.losses[-5:]) < 0.5 * np.mean(trained.losses[:5])
    assert (trained.false_positives > 0).all()
    assert len(trained.false_negatives) == 90
    images, labels, masks = boards(6, 1)
    scores = []
    for found, own, drawn in zip(trained.net.segments(images), labels, masks, strict=True):
        assert int(found.masks.sum(0).max()) <= 1
        scores.append(
            panoptic_quality(
                found.masks.numpy(), drawn.numpy(), classes=found.labels.numpy() + 1, target_classes=own.numpy() + 1
            ).pq
        )
    assert np.mean(scores) > 0.5


def test_segments_by_hand() -> None:
    masks = torch.full((4, 2, 4), -9.0)
    masks[0, :, :2], masks[1, :, 1:], masks[2] = 9.0, 9.0, 9.0
    classes = torch.tensor([[4.0, 0, 0], [0, 2.0, 0], [0, 0, 9.0], [3.0, 0, 0]])
    found = _segments(masks, classes, 0.5, 0.6)
    # The third says no object, the fourth has no pixel; of the second's three columns one is the first's.
    assert found.labels.tolist() == [0, 1]
    assert found.masks.int().tolist() == [[[1, 1, 0, 0]] * 2, [[0, 0, 1, 1]] * 2]
    assert _segments(masks, classes, 0.5, 0.7).labels.tolist() == [0]
    assert not len(_segments(masks, classes, 0.999, 0.6).labels)


def test_the_auxiliary_head_is_dropped_after_training() -> None:
    net = PanopticNet(3, queries=4, width=16, layers=1)
    images = torch.rand(1, 3, 16, 24)
    assert net(images)[1].shape == (1, 4, 16, 24)
    assert net.eval()(images)[1] is None
    other = PanopticNet(3, queries=4, width=16, layers=1).eval()
    missing = other.load_state_dict(net.inference_state(), strict=False).missing_keys
    assert missing
    assert all(name.startswith("semantic.") for name in missing)
    assert torch.equal(net(images)[0][-1].masks, other(images)[0][-1].masks)


def test_what_cannot_be_trained_is_said() -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        PanopticNet(3, width=12)
    images, labels, masks = boards(2, 0)
    with pytest.raises(UsageError, match="not 1 and 2 for 2"):
        train_panoptic(images, labels[:1], masks, classes=2)


def test_where_masks_overlap_the_surer_class_wins() -> None:
    masks = torch.full((2, 1, 6), -9.0)
    masks[0, :, :4], masks[1, :, 2:] = 9.0, 9.0
    for first, second, owner in ((1.0, 4.0, 1), (4.0, 1.0, 0)):
        classes = torch.tensor([[first, 0.0, -9.0], [0.0, second, -9.0]])
        found = _segments(masks, classes, 0.5, 0.4)
        wanted = [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]] if owner else [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
        assert found.masks.int()[:, 0].tolist() == wanted


def test_a_saved_net_gives_the_same_segments_without_its_training_head(tmp_path: Path) -> None:
    net = train_panoptic(*boards(6, 0), classes=2, queries=4, width=32, layers=2, steps=30, lr=3e-3).net
    folder = save_panoptic(net, tmp_path / "net", card={"summary": "squares"})
    assert not any(name.startswith("semantic.") for name in load_file(folder / "model.safetensors"))
    again, images = load_panoptic(folder), boards(3, 1)[0]
    assert not again.training
    for one, other in zip(net.segments(images, score=0.2), again.segments(images, score=0.2), strict=True):
        assert torch.equal(one.masks, other.masks)
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores)
    with pytest.raises(CheckpointError, match="holds no model"):
        load_panoptic(tmp_path)
