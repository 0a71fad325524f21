"""Variants of captions: what each change does, how often, and that nothing but seed, key and epoch decides."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from binderclip.data import TextAugment
from binderclip.data.augment.synonyms import STOP_WORDS, SYNONYMS
from binderclip.errors import UsageError

NOTHING = {"stopword": 0.0, "synonym": 0.0, "swap": 0.0, "delete": 0.0}
CAPTION = "The old dog, and a red car under the tree"
KEYS = [f"k{i}" for i in range(4000)]


def variants(**settings: float) -> list[str]:
    return TextAugment(**{**NOTHING, **settings})([CAPTION] * len(KEYS), KEYS)


def test_without_changes_a_caption_is_itself() -> None:
    assert set(variants()) == {CAPTION}


def test_stop_words_go_and_nothing_else() -> None:
    assert set(variants(stopword=1.0)) == {"old dog, red car tree"}
    shares = Counter(variants(stopword=0.8))
    assert shares[CAPTION] / len(KEYS) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / len(KEYS)))


def test_a_synonym_replaces_one_word_and_each_that_has_some_in_turn() -> None:
    found = Counter(variants(synonym=1.0))
    words = CAPTION.split()
    changed = Counter()
    for text, count in found.items():
        different = [(a, b) for a, b in zip(words, text.split(), strict=True) if a != b]
        assert len(different) == 1
        before, after = different[0]
        assert after.strip(",") in SYNONYMS[before.strip(",")]
        assert ("," in before) == ("," in after)
        changed[before] += count
    assert set(changed) == {"old", "dog,", "car"}
    for count in changed.values():
        assert count / len(KEYS) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / len(KEYS)))


def test_a_swap_exchanges_two_words_and_all_pairs_alike() -> None:
    augment = TextAugment(**{**NOTHING, "swap": 1.0})
    found = Counter(augment(["a b c"] * len(KEYS), KEYS))
    assert set(found) == {"b a c", "c b a", "a c b"}
    for count in found.values():
        assert count / len(KEYS) == pytest.approx(1 / 3, abs=4 * math.sqrt(2 / 9 / len(KEYS)))


def test_a_deletion_drops_words_by_their_probability_and_never_all() -> None:
    augment = TextAugment(**{**NOTHING, "delete": 1.0, "drop": 0.3})
    found = augment(["a b c d"] * len(KEYS), KEYS)
    lost = sum(4 - len(text.split()) for text in found)
    # of the 4 words a share of 0.3; the one caption in 0.3 ** 4 that would be empty keeps its words
    expected = 0.3 - 0.3**4
    assert lost / (4 * len(KEYS)) == pytest.approx(expected, abs=4 * math.sqrt(0.21 / (4 * len(KEYS))))
    assert all(text.split() == [word for word in "abcd" if word in text] for text in found)
    everything = TextAugment(**{**NOTHING, "delete": 1.0, "drop": 1.0})
    assert everything(["one word"], ["k"]) == ["one word"]


def test_at_most_one_change_happens_by_the_shares_of_the_paper() -> None:
    """Of 4,000 captions of different words: a synonym in 0.4, a swap in 0.4, in 0.2 a deletion, which may drop none."""
    augment = TextAugment(stopword=0.0, synonyms=dict.fromkeys("abcdef", ("new",)), drop=0.5)
    kinds = Counter()
    for text in augment(["a b c d e f"] * len(KEYS), KEYS):
        words = text.split()
        if "new" in words:
            kinds["synonym"] += 1
        elif words == sorted(words):
            kinds["delete"] += 1
        else:
            kinds["swap"] += len(words) == 6
    assert sum(kinds.values()) == len(KEYS)
    for name, share in {"synonym": 0.4, "swap": 0.4, "delete": 0.2}.items():
        assert kinds[name] / len(KEYS) == pytest.approx(share, abs=4 * math.sqrt(0.25 / len(KEYS)))


def test_only_seed_key_and_epoch_decide() -> None:
    augment = TextAugment(seed=3)
    captions = ["a big dog in the house", "the cat", "a long caption of many more words than the others have here"]
    whole = augment(captions, ["x", "y", "z"], epoch=2)
    assert whole == [augment([c], [k], epoch=2)[0] for c, k in zip(captions, "xyz", strict=True)]
    assert augment(captions[::-1], ["z", "y", "x"], epoch=2) == whole[::-1]
    many = [CAPTION] * 50
    first = augment(many, KEYS[:50])
    assert augment(many, KEYS[:50], epoch=1) != first
    assert TextAugment(seed=4)(many, KEYS[:50]) != first
    assert augment(many, [f"{key}/1" for key in KEYS[:50]]) != first


def test_what_little_there_is_stays() -> None:
    strong = TextAugment(stopword=1.0, synonym=0.0, swap=1.0, delete=0.0)
    assert strong(["of the", "", "cat"], ["a", "b", "c"]) == ["the of", "", "cat"]
    assert strong([], []) == []


def test_the_tables_are_in_order() -> None:
    assert all(word == word.lower() for word in (*STOP_WORDS, *SYNONYMS))
    assert not STOP_WORDS & set(SYNONYMS)
    assert all(word in SYNONYMS[other] for word, others in SYNONYMS.items() for other in others)
    assert all(word not in others for word, others in SYNONYMS.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stopword": 1.5}, "stopword is 1.5"),
        ({"drop": -0.1}, r"drop is -0.1; it lies in \[0, 1\]"),
        ({"drop": math.nan}, "drop is nan"),
        ({"synonym": 0.5, "swap": 0.5, "delete": 0.2}, "at most 1, got 1.2"),
        ({"synonyms": {"dog": ()}}, "'dog' must be a list"),
        ({"synonyms": {"dog": "hound"}}, "'dog' must be a list"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TextAugment(**settings)  # type: ignore[arg-type]


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match="got 1 keys"):
        TextAugment()(["a", "b"], ["x"])
    with pytest.raises(UsageError, match="list of captions"):
        TextAugment()("ab", ["x", "y"])
