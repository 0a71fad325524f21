"""Retrieval and accuracy against a plain ranking written with sorting, on small sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from binderclip.errors import UsageError
from binderclip.evaluate import retrieval, zero_shot_accuracy


def brute_force(rows: np.ndarray, columns: np.ndarray, captions: list[str], k: int) -> float:
    """Sort every row; a hit is an equal caption among the first k."""
    hits = 0
    for i, row in enumerate(rows):
        order = sorted(range(len(columns)), key=lambda j: -float(row @ columns[j]))
        hits += any(captions[j] == captions[i] for j in order[:k])
    return hits / len(rows)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_recall_equals_sorting(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    text = image + 1.2 * torch.randn(40, 8, generator=generator, dtype=torch.float64)
    captions = [f"caption {i % 33}" for i in range(40)]
    # Equal captions have equal features.
    text = torch.stack([text[captions.index(c)] for c in captions])
    found = retrieval(3 * image, 0.2 * text, captions=captions, ks=(1, 5, 10), chunk=chunk)
    a = (image / image.norm(dim=1, keepdim=True)).numpy()
    b = (text / text.norm(dim=1, keepdim=True)).numpy()
    for k in (1, 5, 10):
        assert found[f"image_to_text/R@{k}"] == pytest.approx(brute_force(a, b, captions, k))
        assert found[f"text_to_image/R@{k}"] == pytest.approx(brute_force(b, a, captions, k))
    assert 0.05 < found["image_to_text/R@1"] < 0.95


def test_equal_captions_count_as_hits() -> None:
    image = torch.eye(4)
    text = image[[1, 0, 3, 2]]
    assert retrieval(image, text, ks=(1,))["image_to_text/R@1"] == 0.0
    assert retrieval(image, text, captions=["a", "a", "b", "b"], ks=(1,))["image_to_text/R@1"] == 1.0


def test_a_constant_answer_scores_zero() -> None:
    found = retrieval(torch.ones(20, 4), torch.ones(20, 4), ks=(1, 10))
    assert found["image_to_text/R@10"] == found["text_to_image/R@1"] == 0.0
    assert found["image_to_text/median_rank"] == 20.0


def test_accuracy_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    classes = torch.randn(7, 6, generator=generator)
    labels = torch.arange(50) % 7
    image = classes[labels] + 1.5 * torch.randn(50, 6, generator=generator)
    found = zero_shot_accuracy(image, classes, labels, ks=(1, 3), chunk=11)
    scores = torch.nn.functional.cosine_similarity(image[:, None], classes[None], dim=-1).numpy()
    for k, name in ((1, "accuracy"), (3, "top3")):
        assert found[name] == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(7)))
    assert found["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    assert found["majority"] == pytest.approx(8 / 50)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: retrieval(torch.ones(3, 2), torch.ones(4, 2)), r"\(3, 2\) and \(4, 2\)"),
        (lambda: retrieval(torch.ones(3, 2), torch.ones(3, 2), captions=["a"]), "1 captions for 3"),
        (lambda: zero_shot_accuracy(torch.ones(2, 3), torch.ones(4, 3), [0, 9]), "0..3, got 0..9"),
        (lambda: zero_shot_accuracy(torch.ones(2, 3), torch.ones(4, 3), [0]), "1 labels for 2"),
    ],
)
def test_errors_name_the_numbers(call, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()
