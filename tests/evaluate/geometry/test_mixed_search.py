"""Mixed-modality search (p096): scikit-learn's NDCG, the released one, and a gap that spoils a ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from binderclip.errors import UsageError
from binderclip.evaluate import EmbeddingSet, GapRemoval, MixedModalityRetrieval


def made(count: int = 60, width: int = 8, gap: float = 3.0, seed: int = 0):
    """Queries, texts and pictures of the same things, each modality moved to a place of its own."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return 0.3 * torch.randn(count, width, generator=generator)

    things = torch.randn(count, width, generator=generator)
    shift = torch.zeros(width)
    shift[0] = gap
    return things + noise() + shift, things + noise() + shift, things + noise() - shift


def test_ndcg_is_that_of_scikit_learn_when_every_document_is_ranked():
    queries, texts, images = made()
    relevant = torch.rand(60, 60, generator=torch.Generator().manual_seed(1)) < 0.05
    relevant |= torch.eye(60, dtype=torch.bool)
    search = MixedModalityRetrieval(queries, texts, images, relevant, modes=3, k=10)
    scores = (search.queries.unit @ search.documents().T).numpy()
    found = search.evaluate()
    assert found.ndcg == pytest.approx(ndcg_score(relevant.numpy(), scores, k=10))
    first = np.argsort(-scores, axis=1)[:, :10]
    recall = [relevant[i, row].sum() / relevant[i].sum() for i, row in enumerate(first)]
    assert found.recall == pytest.approx(float(np.mean(recall)))
    released = MixedModalityRetrieval(queries, texts, images, relevant, modes=3, k=10, ideal="retrieved").evaluate()
    for i, row in enumerate(first):
        hits = relevant[i, row].numpy().astype(float)
        best = (np.sort(hits)[::-1] / np.log2(np.arange(10) + 2)).sum()
        expected = (hits / np.log2(np.arange(10) + 2)).sum() / best if best else 0.0
        assert float(released.queries[i]) == pytest.approx(expected)


def test_without_a_gap_nothing_is_gained_and_with_one_pictures_are_found_again():
    eye = torch.eye(60, dtype=torch.bool)
    figures = {}
    for gap in (0.0, 3.0):
        known = made(2000, gap=gap, seed=5)
        removal = GapRemoval().fit(
            EmbeddingSet(known[0], "text", "query"), EmbeddingSet(known[1], "text"), EmbeddingSet(known[2], "image")
        )
        search = MixedModalityRetrieval(*made(gap=gap), eye, modes=0, k=10)
        figures[gap] = search.evaluate(), search.evaluate(removal)
    plain, removed = figures[3.0]
    assert removed.ndcg > plain.ndcg + 0.1
    assert removed.by_mode["image"] > plain.by_mode["image"] + 0.3
    assert plain.shares["image"] < 0.1 < 0.2 < removed.shares["image"] < 0.45
    assert figures[0.0][1].ndcg == pytest.approx(figures[0.0][0].ndcg, abs=0.05)
    assert removed.ndcg == pytest.approx(figures[0.0][0].ndcg, abs=0.1)


def test_means_of_zero_change_nothing_and_each_kind_gets_a_third():
    search = MixedModalityRetrieval(*made(), torch.eye(60, dtype=torch.bool), modes=7)
    assert sorted(search.modes.count(mode) for mode in ("text", "image", "both")) == [20, 20, 20]
    removal = GapRemoval().fit(*(EmbeddingSet(x, m, r) for x, m, r in
                                 ((made()[0], "text", "query"), (made()[1], "text", "document"),
                                  (made()[2], "image", "document"))))  # fmt: skip
    for part in removal._state.values():
        part["mean"] = torch.zeros(8, dtype=torch.float64)
    torch.testing.assert_close(search.evaluate(removal).queries, search.evaluate().queries)


def test_documents_are_shown_as_the_gap_removal_shows_them():
    queries, texts, images = made()
    modes = ["text", "image", "both"] * 20
    search = MixedModalityRetrieval(queries, texts, images, torch.eye(60, dtype=torch.bool), modes=modes, share=0.3)
    removal = GapRemoval().fit(EmbeddingSet(texts, "text"), EmbeddingSet(images, "image"))
    found, plain = search.documents(removal), search.documents()
    for k, mode in enumerate(modes):
        sides = texts[k : k + 1].double(), images[k : k + 1].double()
        share = {"text": 1.0, "image": 0.0, "both": 0.3}[mode]
        torch.testing.assert_close(found[k : k + 1], removal.mixed(*sides, share))
        t, i = (side / side.norm() for side in sides)
        both = share * t + (1 - share) * i
        torch.testing.assert_close(plain[k : k + 1], both / both.norm())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "k must be"),
        ({"modes": ["text"] * 59}, "modes must be"),
        ({"modes": ["sound"] * 60}, "modes must be"),
        ({"relevant": torch.zeros(60, 60, dtype=torch.bool)}, "query 0 has no relevant"),
        ({"relevant": torch.eye(59, dtype=torch.bool)}, "need relevant of that shape"),
        ({"ideal": "none"}, "ideal all or retrieved"),
    ],
)
def test_what_does_not_fit_is_refused(change, said: str):
    settings = {"relevant": torch.eye(60, dtype=torch.bool), **change}
    with pytest.raises(UsageError, match=said):
        MixedModalityRetrieval(*made(), **settings)
