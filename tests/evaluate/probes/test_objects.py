"""Probes of several objects of p109 (arXiv 2502.19842), on encoders whose preference is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from binderclip.errors import UsageError
from binderclip.evaluate import ObjectClassificationProbe, ObjectRetrievalProbe, OrderSensitivityProbe

K = 8
NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]


def contents(n: int, count: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(K)[:count] for _ in range(n)])


def additive(held: np.ndarray, weights: list[float]) -> torch.Tensor:
    """Sum of w_j e_{o_j} with orthonormal e."""
    found = np.zeros((len(held), K))
    np.add.at(found, (np.arange(len(held))[:, None], held), np.array(weights))
    return torch.from_numpy(found)


def test_the_slot_with_the_largest_weight_dominates() -> None:
    held = contents(60)
    probe = ObjectRetrievalProbe(torch.eye(K))
    found = probe(additive(held, [1.0, 1.0, 3.0, 2.0]), held)
    assert found.dominance.tolist() == [0, 0, 1, 0]
    assert (found.top_n, found.precision, found.average_precision, found.ndcg) == pytest.approx((1, 1, 1, 1))
    assert found.dominance_if_right.tolist() == [0, 0, 1, 0]
    equal = probe(additive(held, [1.0] * 4), held)
    assert equal.dominance == pytest.approx(np.full(4, 0.25)), "ties are shared"


def test_dominance_counts_the_scenes_own_objects_alone() -> None:
    held = np.array([[0, 1]])
    features = torch.tensor([[0.2, 0.5, 3.0, 0.4, 0.0, 0.0, 0.0, 0.0]])  # the nearest of all is not in the scene
    found = ObjectRetrievalProbe(torch.eye(K))(features, held)
    assert found.dominance.tolist() == [0, 1]
    assert found.top_n == 0
    assert np.isnan(found.dominance_if_right).all()
    assert found.precision == 0.5


def test_rankings_are_scored_as_scikit_learn_scores_them() -> None:
    rng = np.random.default_rng(4)
    held, features = contents(40, 3), torch.from_numpy(rng.normal(size=(40, 5)))
    references = torch.from_numpy(rng.normal(size=(K, 5)))
    found = ObjectRetrievalProbe(references)(features, held)
    scores = torch.nn.functional.cosine_similarity(features[:, None], references[None], dim=2).numpy()
    truth = np.zeros((40, K))
    np.put_along_axis(truth, held, 1, axis=1)
    assert found.ndcg == pytest.approx(ndcg_score(truth, scores))
    wanted = np.mean([average_precision_score(one, own) for one, own in zip(truth, scores, strict=True)])
    assert found.average_precision == pytest.approx(wanted)
    top = np.argsort(-scores, axis=1)[:, :3]
    own = [set(a) & set(b) for a, b in zip(top.tolist(), held.tolist(), strict=True)]
    assert found.precision == pytest.approx(np.mean([len(each) / 3 for each in own]))
    assert found.top_n == pytest.approx(np.mean([len(each) == 3 for each in own]))


def test_slots_are_read_as_well_as_they_are_heard() -> None:
    held = contents(1500, 2, seed=1)
    features = additive(held, [2.0, 1.0]) + 0.5 * torch.randn(1500, K, generator=torch.Generator().manual_seed(0))
    probe = ObjectClassificationProbe(K, epochs=40, lr=1e-2)
    loud, soft = probe(features, held)
    assert loud > soft + 0.1
    assert loud > 0.8
    even = probe(additive(held, [1.0, 1.0]), held)
    assert abs(even[0] - even[1]) < 0.12
    assert even.mean() < 0.65, "an encoder without order leaves a choice of two"


def encoder(weights: Callable[[int], float]) -> Callable[[list[str]], torch.Tensor]:
    """Captions as weighted bags of words."""

    def encode(texts: list[str]) -> torch.Tensor:
        found = torch.zeros(len(texts), K)
        for row, text in enumerate(texts):
            for place, word in enumerate(text.split(" and ")):
                found[row, NAMES.index(word)] += weights(place)
        return found

    return encode


def test_captions_are_those_of_the_paper() -> None:
    probe = OrderSensitivityProbe(NAMES, encoder(lambda place: 1.0))
    first, last = probe.captions([0, 1, 2, 3], biased=1, wrong=7)
    assert first == ("bee and ant and cat and dog", "hen and ant and cat and dog")
    # in the last case the wrong caption keeps the large object, in front
    assert last == ("ant and dog and cat and bee", "bee and ant and cat and hen")
    other = OrderSensitivityProbe(NAMES, encoder(lambda place: 1.0), replaced="other")
    assert other.captions([0, 1, 2, 3], 1, 7)[0] == ("bee and ant and cat and dog", "bee and ant and cat and hen")


def test_an_encoder_of_bags_of_words_is_right_either_way_and_one_that_hears_the_first_is_not() -> None:
    held = contents(50)
    images = additive(held, [1.0, 4.0, 1.0, 1.0])
    bags = OrderSensitivityProbe(NAMES, encoder(lambda place: 1.0))(images, held, 1)
    assert (bags.first, bags.last, bags.difference) == (1, 1, 0)
    hears = OrderSensitivityProbe(NAMES, encoder(lambda place: math.exp(-1.5 * place)))(images, held, 1)
    assert hears.first == 1
    assert hears.last == 0
    drawn = OrderSensitivityProbe(NAMES, encoder(lambda place: math.exp(-1.5 * place)), absent=2)(
        images, held, [1] * 50
    )
    assert drawn.difference == 1
    assert drawn.by_scene.shape == (50, 2)


def test_every_caption_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> torch.Tensor:
        seen.extend(texts)
        return encoder(lambda place: 1.0)(texts)

    held = np.repeat(contents(1), 3, axis=0)
    OrderSensitivityProbe(NAMES, encode)(additive(held, [1.0, 2.0, 1.0, 1.0]), held, 1)
    assert len(seen) == len(set(seen)) == 2 + 4 + 4, (
        "two right ones, and two wrong ones for each of four absent objects"
    )


def test_what_is_wrong_is_said() -> None:
    probe = ObjectRetrievalProbe(torch.eye(K))
    with pytest.raises(UsageError, match="twice"):
        probe(torch.ones(1, K), np.array([[1, 1]]))
    with pytest.raises(UsageError, match="from 0 to 7"):
        probe(torch.ones(1, K), np.array([[0, 8]]))
    with pytest.raises(UsageError, match="whole numbers"):
        probe(torch.ones(1, K), np.array([[0.0, 1.0]]))
    with pytest.raises(UsageError, match="zero or not finite"):
        ObjectRetrievalProbe(torch.zeros(2, 3))
    with pytest.raises(UsageError, match="at least 2"):
        ObjectClassificationProbe(1)
    with pytest.raises(UsageError, match="cannot be split"):
        ObjectClassificationProbe(K, train=0.9)(torch.ones(2, K), np.array([[0], [1]]))
    with pytest.raises(UsageError, match="replaced must be one of biased, other"):
        OrderSensitivityProbe(NAMES, encoder(lambda place: 1.0), replaced="none")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="biased slots"):
        OrderSensitivityProbe(NAMES, encoder(lambda place: 1.0))(torch.ones(1, K), np.array([[0, 1]]), 2)
