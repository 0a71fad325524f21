"""Training on episodes (p068): what an episode is, one step by hand, and that classes never seen are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.segment import FewShotEpisodes, HypercorrelationNet, train_few_shot
from binderclip.segment.few_shot.segmenter import full_logits

#: Colours of six classes; the last two are never trained on.
PAINT = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).float()


def boards(seed: int, count: int, classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy grey pictures with two squares of different classes."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 + 0.03 * torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.zeros(count, 32, 32, dtype=torch.long)
    for row in range(count):
        order = torch.randperm(len(classes), generator=generator)[:2]
        for side, place in enumerate(order.tolist()):
            y, x = (int(v) for v in torch.randint(0, 5, (2,), generator=generator) * 4)
            at = (row, slice(y, y + 16), slice(16 * side, 16 * side + 4 + x // 2 + 4))
            images[at[0], :, at[1], at[2]] = PAINT[classes[place]][:, None, None]
            labels[at] = classes[place] + 1
    return images.clamp(0, 1), labels


def test_episodes_show_one_class_twice(colours: Any) -> None:
    labels = torch.zeros(5, 32, 32, dtype=torch.long)
    labels[0, :16], labels[1, :16], labels[2, :, :8] = 1, 1, 2
    labels[3, 0, 0], labels[4, 4:, 4:] = 2, 255
    episodes = FewShotEpisodes(colours, torch.rand(5, 3, 32, 32), labels)
    assert episodes.pictures == {1: [0, 1]}  # the second picture of class 2 shows a thousandth of it; 255 is no class
    generator = torch.Generator().manual_seed(0)
    drawn = {(e.query, e.support, e.label) for e in (episodes.draw(generator) for _ in range(30))}
    assert drawn == {(0, 1, 1), (1, 0, 1)}


def test_targets_leave_ignored_pixels_out_and_pictures_pass_once(colours: Any) -> None:
    labels = torch.zeros(3, 32, 32, dtype=torch.long)
    labels[:, :16], labels[0, 20:], labels[1, 20:] = 1, -1, 255
    episodes = FewShotEpisodes(colours, torch.rand(3, 3, 32, 32), labels)
    generator = torch.Generator().manual_seed(0)
    chosen = [episodes.draw(generator) for _ in range(20)]
    _, support, target = episodes.batch(chosen)
    for each, found in zip(chosen, target, strict=True):
        assert (found[:16] == 1).all()
        assert (found[16:20] == 0).all()
        assert (found[20:] == (0 if each.query == 2 else -1)).all()
    assert support.mask[:, :16].all()
    assert not support.mask[:, 16:].any()
    assert colours.passes == 6  # three pictures, and each with its background blacked out


def test_the_first_loss_is_cross_entropy_at_the_size_of_the_labels(colours: Any) -> None:
    images, labels = boards(0, 8, [0, 1, 2, 3])
    labels[:, :2] = -1
    episodes = FewShotEpisodes(colours, images, labels)
    trained = train_few_shot(episodes, widths=(4, 4, 4), steps=1, batch=3, seed=5)
    torch.manual_seed(5)
    net = HypercorrelationNet((1, 1, 2), widths=(4, 4, 4))
    generator = torch.Generator().manual_seed(5)
    query, support, target = episodes.batch([episodes.draw(generator) for _ in range(3)])
    logits = full_logits(net(query, support), (32, 32))
    assert trained.losses[0] == pytest.approx(F.cross_entropy(logits, target, ignore_index=-1).item(), abs=1e-5)


@pytest.mark.parametrize("support", ["msi", "features"])
def test_it_learns_to_find_classes_it_never_saw(colours: Any, support: Any) -> None:
    episodes = FewShotEpisodes(colours, *boards(1, 24, [0, 1, 2, 3]))
    trained = train_few_shot(episodes, support=support, widths=(4, 8, 8), steps=60, batch=4, lr=1e-2)
    assert np.mean(trained.losses[-10:]) < 0.5 * np.mean(trained.losses[:5])
    images, labels = boards(2, 6, [4, 5])
    net = trained.segmenter.matcher
    test = FewShotEpisodes(colours, images, labels)
    generator = torch.Generator().manual_seed(0)
    query, shown, target = test.batch([test.draw(generator) for _ in range(12)])
    with torch.no_grad():
        found = full_logits(net(query, shown), (32, 32)).argmax(1) == 1
    truth = target == 1
    iou = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    assert float(iou.mean()) > 0.6  # both squares, or any, would give 0.5


def test_pictures_that_make_no_episode_are_refused(colours: Any) -> None:
    with pytest.raises(UsageError, match=r"images \(2, 3, 32, 32\) and labels \(2, 16, 16\) do not belong together"):
        FewShotEpisodes(colours, torch.rand(2, 3, 32, 32), torch.zeros(2, 16, 16, dtype=torch.long))
    with pytest.raises(UsageError, match="no class covers enough of two pictures"):
        FewShotEpisodes(colours, torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long))
    episodes = FewShotEpisodes(colours, *boards(1, 4, [0, 1]))
    with pytest.raises(UsageError, match="batch must be at least 1, got 0"):
        train_few_shot(episodes, batch=0)
