"""The probe of object hallucination: ranks by brute force, random embeddings, and a model that counts words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from binderclip.data import hallucinated_captions
from binderclip.errors import UsageError
from binderclip.evaluate import ObjectHallucination
from binderclip.similarity.hubness import CSLS

NAMES = ["cat", "dog", "tree", "car", "sun", "moon", "house"]


@pytest.fixture
def probe() -> ObjectHallucination:
    captions, others = [], []
    for i, j in ((a, b) for a in range(7) for b in range(a + 1, 7)):
        left = [name for k, name in enumerate(NAMES) if k not in (i, j)]
        captions.append(f"a {NAMES[i]} and a {NAMES[j]}")
        lists = {"adversarial": left[:3], "popular": left[1:4], "random": left[2:]}
        others.append(hallucinated_captions(captions[-1], [NAMES[i], NAMES[j]], lists))
    return ObjectHallucination(captions, others)


def embedded(probe: ObjectHallucination, seed: int, width: int = 24) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    count = len(probe.captions)
    return tuple(torch.randn(*shape, width, generator=generator) for shape in ((count,), (count,), (count, 27)))


def test_figures_are_those_of_loops(probe: ObjectHallucination) -> None:
    images, own, others = embedded(probe, 0, width=3)
    own = images + 0.4 * own
    found = probe.figures(images, own, others)
    right, by_kind, margins = [], {}, []
    for i, entry in enumerate(probe.others):
        true = float(F.cosine_similarity(images[i], own[i], dim=0))
        each = [float(F.cosine_similarity(images[i], other, dim=0)) for other in others[i]]
        listed = [value for value, valid in zip(each, entry.valid, strict=True) if valid]
        right.append(all(true > value for value in listed))
        margins.append(true - max(listed))
        for kind in ("adversarial", "popular", "random", "deletion"):
            wins = [true > v for v, k, ok in zip(each, entry.kinds, entry.valid, strict=True) if ok and k == kind]
            by_kind.setdefault(kind, []).append(all(wins))
    assert 0.1 < found.accuracy < 0.9
    assert found.right.tolist() == right
    assert found.by_kind == pytest.approx({kind: np.mean(wins) for kind, wins in by_kind.items()})
    assert found.margin == pytest.approx(np.mean(margins), abs=1e-6)
    assert found.chance == pytest.approx(1 / 24)


def test_captions_are_compared_as_the_model_compares(probe: ObjectHallucination) -> None:
    images, own, others = embedded(probe, 0, width=3)
    own = images + 0.4 * own
    csls = CSLS(torch.eye(3), neighbours=2, text_weight=0.8)
    found = probe.figures(images, own, others, geometry=csls)
    texts = [torch.cat([own[i : i + 1], others[i][torch.tensor(probe.valid[i])]]) for i in range(len(own))]
    scores = [csls(csls.embed(images[i : i + 1]), csls.embed(texts[i], "text"))[0] for i in range(len(own))]
    assert found.right.tolist() == [bool((row[0] > row[1:]).all()) for row in scores]
    assert found.margin == pytest.approx(np.mean([float(row[0] - row[1:].max()) for row in scores]), abs=1e-6)
    assert found.right.tolist() != probe.figures(images, own, others).right.tolist()


def test_random_embeddings_are_at_chance(probe: ObjectHallucination) -> None:
    values = [probe.figures(*embedded(probe, seed)).accuracy for seed in range(120)]
    # 120 x 21 pictures: a binomial deviation of 0.004
    assert np.mean(values) == pytest.approx(1 / 24, abs=0.016)


def test_equal_captions_are_a_failure(probe: ObjectHallucination) -> None:
    images, own, _ = embedded(probe, 1)
    assert probe.figures(images, own, own[:, None].expand(-1, 27, -1)).accuracy == 0.0


class Counts:
    """Embeds texts as bags of the names; a picture is given as a text; `liking` objects too many or too few."""

    geometry = None

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        bags = torch.tensor([[float(name in text) for name in NAMES] for text in texts])
        return F.normalize(F.pad(bags, (0, 1), value=0.1), dim=1)

    def encode_image(self, images: list[str], *, batch_size: int) -> torch.Tensor:
        return self.encode_text(images)


def test_a_model_that_sees_every_object_is_right_and_one_that_sees_ghosts_is_not(probe: ObjectHallucination) -> None:
    exact = probe(Counts(), probe.captions)
    assert exact.accuracy == 1.0
    assert exact.by_changed == {1: 1.0, 2: 1.0, 3: 1.0}
    assert exact.margin > 0
    ghosts = probe(Counts(), [entry.captions[0] for entry in probe.others])
    assert ghosts.accuracy == 0.0
    assert ghosts.by_kind["adversarial"] == 0.0
    assert ghosts.by_kind["deletion"] == 1.0


def test_what_is_wrong_is_said(probe: ObjectHallucination) -> None:
    with pytest.raises(UsageError, match="one list each"):
        ObjectHallucination(["a"], [])
    images, own, others = embedded(probe, 0)
    with pytest.raises(UsageError, match="21 pictures with 27 captions each"):
        probe.figures(images, own, others[:, :5])
