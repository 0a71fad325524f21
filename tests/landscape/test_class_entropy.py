"""PSP-entropy of p182 (arXiv 2004.14765) against SciPy's entropy, scikit-learn's mutual information and known cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from binderclip.errors import UsageError
from binderclip.landscape import psp_entropy


def test_it_is_the_entropy_of_each_class_summed() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(50)  # as many of each, so that frequencies are the uniform weights
    potentials = torch.randn(200, 6, generator=g) + 0.4 * labels[:, None]
    result = psp_entropy(potentials, labels)
    state = (potentials > 0).numpy()
    for neuron in range(6):
        p = np.array([state[labels.numpy() == c, neuron].mean() for c in range(4)])
        assert result.on[neuron].numpy() == pytest.approx(p)
        assert float(result.entropy[neuron]) == pytest.approx(entropy([p, 1 - p], base=2).sum(), abs=1e-5)
        told = mutual_info_score(state[:, neuron], labels.numpy()) / np.log(2)
        assert float(result.information[neuron]) == pytest.approx(told, abs=1e-5)
    assert result.mean == pytest.approx(float(result.entropy.mean()))


def test_a_neuron_of_one_class_has_none_and_one_without_a_class_has_c_bits() -> None:
    labels = torch.arange(5).repeat_interleave(4)
    own = torch.where(labels == 2, 1.0, -1.0)
    free = torch.tensor([1.0, -1.0]).repeat(10)
    dead, always = torch.full((20,), -1.0), torch.ones(20)
    result = psp_entropy(torch.stack([own, free, dead, always, torch.zeros(20)], 1), labels)
    assert result.entropy.tolist() == pytest.approx([0, 5, 0, 0, 0], abs=1e-6)
    assert result.alive.tolist() == [True, True, False, False, False]  # 0 is off
    assert result.mean == pytest.approx(2.5)
    h = entropy([0.2, 0.8], base=2)
    assert result.information.tolist() == pytest.approx([h, 0, 0, 0, 0], abs=1e-6)


def test_every_place_of_a_channel_counts() -> None:
    maps = torch.randn(12, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2]).repeat(4)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.allclose(
        psp_entropy(maps, labels).entropy, psp_entropy(rows, labels.repeat_interleave(20)).entropy, atol=1e-6
    )


@pytest.mark.parametrize(
    ("potentials", "labels"),
    [
        (torch.zeros(0, 2), torch.zeros(0).long()),
        (torch.zeros(3, 2), torch.tensor([0, 1])),
        (torch.zeros(3, 2), torch.tensor([0, 2, 2])),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1])),
        (torch.full((2, 2), float("nan")), torch.tensor([0, 1])),
    ],
)
def test_what_has_no_entropy_is_refused(potentials: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(UsageError):
        psp_entropy(potentials, labels)
