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


@pytest.mark.parametrize("chunk", [4, 1000])
def test_recall_of_several_captions_is_that_of_clip_benchmark(chunk: int) -> None:
    """Its definition, written with sets: a text asks for its one image, an image is found by any of its texts."""
    generator = torch.Generator().manual_seed(2)
    owners = [picture for picture in range(30) for _ in range(1 + picture % 5)]
    owners = [owners[i] for i in torch.randperm(len(owners), generator=generator)]
    image = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    text = image[owners] + 1.3 * torch.randn(len(owners), 8, generator=generator, dtype=torch.float64)
    found = retrieval(2 * image, 5 * text, image_index=owners, ks=(1, 5, 10), chunk=chunk)
    scores = torch.nn.functional.cosine_similarity(text[:, None], image[None], dim=-1).numpy()
    for k in (1, 5, 10):
        of_text = [owner in set(np.argsort(-row)[:k].tolist()) for owner, row in zip(owners, scores, strict=True)]
        of_image = []
        for picture in range(30):
            first = np.argsort(-scores[:, picture])[:k]
            of_image.append(picture in {owners[i] for i in first})
        assert found[f"text_to_image/R@{k}"] == pytest.approx(np.mean(of_text))
        assert found[f"image_to_text/R@{k}"] == pytest.approx(np.mean(of_image))
        assert np.mean(of_text) != pytest.approx(np.mean(of_image))
    assert (found["count"], found["captions"]) == (30, len(owners))


def test_one_text_an_image_is_a_case_of_several() -> None:
    generator = torch.Generator().manual_seed(3)
    image, text = torch.randn(2, 25, 6, generator=generator)
    order = torch.randperm(25, generator=generator)
    plain, indexed = retrieval(image, text), retrieval(image, text[order], image_index=order)
    assert {name: value for name, value in indexed.items() if name != "captions"} == plain


def test_several_captions_with_equal_ones_count_every_image_that_has_them() -> None:
    image = torch.eye(3)
    text = image[[0, 1, 1, 2]]  # the second text lies at image 1 and says what is true of image 0 as well
    told = {"image_index": [0, 0, 1, 2], "ks": (1,)}
    assert retrieval(image, text, **told)["text_to_image/R@1"] == 3 / 4
    assert retrieval(image, text, captions=["a", "b", "b", "c"], **told)["text_to_image/R@1"] == 1.0


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
        (lambda: retrieval(torch.ones(3, 2), torch.ones(4, 2), image_index=[0, 1, 2]), r"\(4,\); got .*\(3,\)"),
        (lambda: retrieval(torch.ones(2, 2), torch.ones(2, 2), image_index=[0, 2]), r"0 to 2; images are 0\.\.1"),
        (lambda: retrieval(torch.ones(2, 2), torch.ones(2, 2), image_index=[1, 1]), "image 0 has no text"),
        (lambda: zero_shot_accuracy(torch.ones(2, 3), torch.ones(4, 3), [0, 9]), "0..3, got 0..9"),
        (lambda: zero_shot_accuracy(torch.ones(2, 3), torch.ones(4, 3), [0]), "1 labels for 2"),
    ],
)
def test_errors_name_the_numbers(call, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [[2], [0, 1, 2, 3]])
def test_what_is_no_number_is_no_hit(bad: float, rows: list[int]) -> None:
    image, text = torch.eye(4), torch.eye(4)
    image[rows] = bad
    found = retrieval(image, text, ks=(1, 4, 10))
    for k in (1, 4, 10):
        assert found[f"image_to_text/R@{k}"] == 1 - len(rows) / 4
    # What is unknown counts as more alike than the right one: the worst case.
    assert found["text_to_image/R@1"] == 0
    single = retrieval(torch.full((1, 4), bad), torch.ones(1, 4), ks=(1,))
    assert single["image_to_text/R@1"] == single["text_to_image/R@1"] == 0
    assert zero_shot_accuracy(image, text, [0, 1, 2, 3], ks=(1, 4))["accuracy"] == 1 - len(rows) / 4
    assert zero_shot_accuracy(image, text, [0, 1, 2, 3], ks=(1, 4))["top4"] == 1 - len(rows) / 4
    text[0] = bad
    assert zero_shot_accuracy(torch.eye(4), text, [0, 1, 2, 3])["accuracy"] == 0


def test_arrays_and_one_k_do_as_well_as_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    assert retrieval(image.numpy(), text.numpy(), ks=2) == retrieval(image, text, ks=(2,))
    expected = zero_shot_accuracy(image, text[:3], labels, ks=(1, 2))
    assert zero_shot_accuracy(image.numpy(), text[:3].tolist(), labels.numpy().astype(np.uint16), ks=(1, 2)) == expected
    with pytest.raises(UsageError, match=r"labels must be whole numbers, \(N,\); got int64 \(\)"):
        zero_shot_accuracy(image[:1], text[:3], torch.tensor(1))
