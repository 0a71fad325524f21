"""DiffROAR (p083, arXiv 2102.12781) where the discriminative coordinates are known, and maps on known masks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import DiffROAR, DiffROARResult, Saliency, from_scratch, input_gradient, signal_null_energy

SIZE, GROUP = 12, 3


def grouped(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Independent standard normals; three of twelve decide the class."""
    x = torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :GROUP].sum(1) > 0).long()


TRAIN, TEST = grouped(800, 0), grouped(800, 1)
LOGISTIC = from_scratch(lambda: nn.Linear(SIZE, 2), epochs=6, lr=0.05)


@pytest.fixture(scope="module")
def result() -> DiffROARResult:
    model = LOGISTIC(*TRAIN, 0)
    test = DiffROAR(LOGISTIC, fractions=[0.25, 1.0], seeds=range(5))
    return test(
        model,
        {"gradient": input_gradient, "upside down": lambda m, x, t: -input_gradient(m, x, t)},
        TRAIN,
        TEST,
    )


def test_the_gradient_of_logistic_regression_passes_and_its_reverse_fails(result: DiffROARResult) -> None:
    gap, error = result.mean("gradient")[0], result.standard_error("gradient")[0]
    assert gap > 0.4  # the top quarter is the group, whose sum is the class; the bottom quarter says nothing
    assert gap > 4 * error
    assert torch.allclose(result.of("upside down")[0], -result.of("gradient")[0], atol=0.03)


def test_random_orders_are_zero_within_two_standard_errors_and_keeping_all_is_zero_exactly(result) -> None:
    assert abs(result.mean("random")[0]) < 2 * max(float(result.standard_error("random")[0]), 0.5 / (5 * 800) ** 0.5)
    assert result.difference[:, 1].abs().max() == 0
    assert result.methods == ("gradient", "upside down", "random")
    assert result.top.kept == (3, 12)


def test_attributions_may_be_methods_maps_or_results_of_ours() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 2))
    images, labels = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
    seen = []

    def fit(masked, _, seed):
        seen.append(masked)
        return net

    test = DiffROAR(fit, fractions=[0.5], seeds=[0], unit="pixel")
    ours = Saliency()(net, images, labels).maps()
    for attribution in (Saliency(), (ours, ours), lambda m, x, t: ours):
        seen.clear()
        test(net, {"it": attribution}, (images, labels), (images, labels))
        kept = seen[0] != images.mean()
        assert torch.equal(kept[:, 0], ours >= ours.flatten(1).sort(1).values[:, 8, None, None])
    with pytest.raises(UsageError, match="at least one attribution"):
        test(net, {}, (images, labels), (images, labels))


def test_input_gradients_are_finite_differences_of_loss_and_logit() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Tanh(), nn.Linear(7, 3)).double()
    x, target = torch.randn(4, 5).double(), torch.tensor([2, 0, 1, 1])
    for of in ("loss", "logit"):
        got = input_gradient(net, x, target, of=of)
        assert net.training  # eval mode inside, put back after
        net.eval()
        for i in range(5):
            step = 1e-6 * torch.eye(5).double()[i]
            plus, minus = (net(x + s) for s in (step, -step))
            if of == "loss":
                plus, minus = (nn.functional.log_softmax(v, 1) for v in (plus, minus))
            slope = ((plus - minus) / 2e-6).gather(1, target[:, None])[:, 0]
            assert torch.allclose(got[:, i], slope.abs(), atol=1e-8)
        net.train()
    assert torch.equal(input_gradient(net, x, 1), input_gradient(net, x, torch.ones(4).long()))
    with pytest.raises(UsageError, match="one class"):
        input_gradient(net, x, torch.tensor([1, 2]))


def test_energy_and_hits_of_known_maps() -> None:
    signal = torch.zeros(4, 8, 4, dtype=torch.bool)
    signal[:2, :4] = True
    signal[2:, 4:] = True
    maps = torch.ones(4, 8, 4)
    maps[0] = signal[0].float()  # all inside
    maps[1] = -(~signal[1]).float()  # all outside; the sign does not matter
    maps[3] = 0
    found = signal_null_energy(maps, signal, fraction=0.5)
    assert found.energy.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert found.top[:2].tolist() == [1.0, 0.0]
    assert 0.2 < found.top[2] < 0.8  # ties at random
    weighted = torch.where(signal, 3.0, 1.0)
    assert signal_null_energy(weighted, signal).energy.tolist() == [0.75] * 4
    coloured = torch.stack([weighted, -weighted, torch.zeros_like(weighted)], 1)
    assert torch.allclose(signal_null_energy(coloured, signal).energy, torch.full((4,), 0.75))
    with pytest.raises(UsageError, match="must be"):
        signal_null_energy(maps[:, :4], signal)
