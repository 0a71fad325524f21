"""Text in pictures (p051): rates written by hand, the fuzzy rate against difflib's edits, readers, the debiased set."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.curate import (
    CurationPipeline,
    DatasetTable,
    EmbeddedTextSignal,
    KeySelection,
    ReadText,
    ScoreThreshold,
    cooccurring_text_rate,
    drop_embedded_text,
)
from binderclip.data import load_data
from binderclip.errors import UsageError

from ..pools import ListTable

WORDS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=5).map(" ".join)


@lru_cache(None)
def distance(a: str, b: str) -> int:
    """Levenshtein's distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


def test_rates_by_hand() -> None:
    assert cooccurring_text_rate("a red car", "RED car sale") == pytest.approx(1 / 3)
    assert cooccurring_text_rate("a red car", "RED car sale", normalize=str.lower) == pytest.approx(2 / 3)
    assert cooccurring_text_rate("car car.", "car") == 0.5  # words are counted once, punctuation stays
    assert cooccurring_text_rate("", "car") == cooccurring_text_rate("car", "") == 0
    assert cooccurring_text_rate("! car", "car", normalize=lambda word: word.strip("!")) == 1
    # "abcde" and "abcdx" differ in one of five: exactly 0.8, which counts.
    assert cooccurring_text_rate("abcde", "abcdx", fuzzy=0.8) == 1
    assert cooccurring_text_rate("abcde", "abcdx", fuzzy=0.81) == 0
    with pytest.raises(UsageError, match="fuzzy is 0"):
        cooccurring_text_rate("a", "a", fuzzy=0)


@given(caption=WORDS, read=WORDS, fuzzy=st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_the_fuzzy_rate_is_that_of_all_pairs(caption: str, read: str, fuzzy: float) -> None:
    told = set(caption.split())
    near = [w for w in told if any(1 - distance(w, o) / max(len(w), len(o)) >= fuzzy for o in read.split())]
    rate = cooccurring_text_rate(caption, read, fuzzy=fuzzy)
    assert rate == pytest.approx(len(near) / len(told) if told else 0)
    assert rate >= cooccurring_text_rate(caption, read)


def test_a_reader_or_a_column_is_asked_for() -> None:
    table = DatasetTable(load_data("noto-emoji", split="val")[:12])
    rule = [ScoreThreshold(column="cotr", minimum=0.1)]
    with pytest.raises(UsageError, match="give the data a column `ocr`"):
        CurationPipeline(rule).run(table)
    first = table.dataset.captions[3].split()[0]
    want = [k for k, c in zip(table.dataset.keys, table.dataset.captions, strict=True) if _rate(c, first) >= 0.1]
    signals = {"ocr": ReadText(lambda picture: first if picture.mode == "RGB" else "")}
    assert CurationPipeline(rule, signals).run(table).selection == KeySelection(want)
    assert want
    lower = {**signals, "cotr": EmbeddedTextSignal(normalize=lambda word: "")}
    assert len(CurationPipeline(rule, lower).run(table).selection) == 0


def _rate(caption: str, word: str) -> float:
    return (word in caption.split()) / len(set(caption.split()))


def test_the_debiased_set() -> None:
    rng = np.random.default_rng(0)
    n = 60
    rows = rng.normal(size=(n, 16))
    rows[1::6] = rows[0::6] + 1e-3  # twins of every sixth
    read, names = ["SALE" if i % 5 == 4 else "" for i in range(n)], [f"s{i}" for i in range(n)]
    columns = {"ocr": read, "clip_score": np.full(n, 0.31), "aesthetic": np.full(n, 5.0), "image_embedding": rows}
    columns["clip_score"][2], columns["aesthetic"][3] = 0.3, 4.5
    kept = CurationPipeline(drop_embedded_text(k=2)).run(ListTable(columns, names)).selection
    plain = [i for i in range(n) if not read[i] and i not in (2, 3)]
    pairs = [(i, i + 1) for i in range(0, n, 6) if i in plain and i + 1 in plain]
    assert len(kept) == len(plain) - len(pairs)
    assert all((names[a] in kept) != (names[b] in kept) for a, b in pairs)
    assert all(name not in kept for name, text in zip(names, read, strict=True) if text)
