"""The shared training of classifiers, and the panels: seeded, and equal to what is written out by hand."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.studies import Row, Table
from binderclip.studies.harness.loops import accuracy, train_classifier
from binderclip.studies.harness.panels import bars, dots, lines, pictures


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    return torch.randn(40, 3, generator=generator) + 4 * labels[:, None], labels


def test_training_is_the_plain_loop_written_out() -> None:
    images, labels = data()
    settings = {"optimizer": {"name": "sgd", "momentum": 0.0}, "lr": 0.1, "schedule": "constant"}
    net = train_classifier(lambda: nn.Linear(3, 2), images, labels, 3, epochs=2, batch=16, **settings)
    torch.manual_seed(3)
    twin = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for epoch in range(2):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3000 + epoch))
        for rows in (order[:16], order[16:32]):
            optimizer.zero_grad()
            F.cross_entropy(twin(images[rows]), labels[rows]).backward()
            optimizer.step()
    torch.testing.assert_close(net.weight, twin.weight)
    assert not net.training


def test_the_seed_decides_and_the_augmentation_is_given_keys_and_the_pass() -> None:
    images, labels = data()
    seen: list[tuple[str, int]] = []

    def augment(views: torch.Tensor, keys: list[str], epoch: int) -> torch.Tensor:
        seen.extend((key, epoch) for key in keys)
        return views

    def run(seed: int) -> torch.Tensor:
        rows = torch.arange(0, 40, 2)
        made = train_classifier(
            lambda: nn.Linear(3, 2), images, labels, seed, rows=rows, epochs=2, batch=10, augment=augment, lr=0.01
        )
        return made.weight.detach()

    assert torch.equal(run(1), run(1))
    assert sorted(seen[:20]) == sorted((str(row), 0) for row in range(0, 40, 2))
    assert {epoch for _, epoch in seen} == {0, 1}
    assert not torch.equal(run(1), run(2))
    with pytest.raises(UsageError, match="40 pictures are fewer than a batch of 64"):
        train_classifier(lambda: nn.Linear(3, 2), images, labels, 0, epochs=1)


def test_accuracy_counts() -> None:
    images = torch.eye(4)
    assert accuracy(nn.Identity(), images, torch.tensor([0, 1, 2, 0]), batch=3) == 0.75


def test_panels_show_what_was_measured() -> None:
    table = Table(
        Row("acc", name, value + 0.1 * seed, setting, seed)
        for seed in range(3)
        for name, value in (("a", 0.5), ("b", 0.3))
        for setting in ("1", "2")
    )
    figure = Figure()
    first, second, third, fourth = figure.subplots(1, 4)
    lines(first, table, "acc", ["1", "2"], [1.0, 2.0], ["a", "b"])
    assert first.lines[0].get_ydata().tolist() == pytest.approx([0.6, 0.6])
    bars(second, table, ["acc"], ["a", "b"], "1")
    assert [patch.get_height() for patch in second.patches] == pytest.approx([0.6, 0.4])
    dots(third, table, "acc", ["a", "b"], "1")
    assert third.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert [text.get_text() for text in third.get_xticklabels()] == ["a", "b"]
    pictures([fourth], [torch.rand(3, 4, 5)], ["seen"])
    assert fourth.images[0].get_array().shape == (4, 5, 3)
    assert fourth.get_title() == "seen"
