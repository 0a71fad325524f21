"""Keys and their hashes: against Python's own integers, sorting and statistics."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from binderclip.curate import hash_uniform, keys_of, uids_of
from binderclip.curate.engine.keys import KEY, key_order, search_keys, smallest
from binderclip.errors import UsageError

UIDS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=30)


@given(uids=UIDS)
def test_a_uid_is_its_own_key_in_datacomps_words(uids: list[str]) -> None:
    keys = keys_of(uids)
    # As datacomp's baselines make them.
    assert keys.tolist() == [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    assert uids_of(keys) == uids
    assert [uids[i] for i in key_order(keys)] == sorted(uids)


FEW = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 2.5, np.inf, np.nan])


@given(st.lists(st.tuples(FEW, st.integers(-2, 2), st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_the_order_is_that_of_numpys_lexsort(rows: list[tuple[float, int, int, int]]) -> None:
    keys = np.array([row[2:] for row in rows], KEY)
    scores, groups = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.int64)
    for before in ((), (scores,), (groups, scores), (scores, groups)):
        expected = np.lexsort((keys["f1"], keys["f0"], *reversed(before)))
        assert key_order(keys, *before).tolist() == expected.tolist()


@given(st.lists(FEW.filter(lambda value: value == value), max_size=20), st.integers(1, 25))
def test_the_smallest_are_all_up_to_a_value(values: list[float], count: int) -> None:
    found = smallest(np.array(values), count)
    bound = max(sorted(values)[:count], default=0.0)
    assert found.tolist() == [i for i, value in enumerate(values) if value <= bound]


def test_a_name_is_hashed() -> None:
    assert uids_of(keys_of(["cat.png"])) == [hashlib.blake2b(b"cat.png", digest_size=16).hexdigest()]
    assert uids_of(keys_of(["F" * 32])) == ["f" * 32]
    assert len(keys_of([])) == 0


@settings(max_examples=60)
@given(table=UIDS, asked=UIDS, common=st.booleans())
def test_search_finds_what_python_finds(table: list[str], asked: list[str], common: bool) -> None:
    if common:  # high words that many keys share
        table, asked = (["0" * 16 + uid[16:] for uid in part] for part in (table, asked))
    ordered = sorted(set(table))
    asked = [*asked, *ordered[::2]]
    found = search_keys(keys_of(ordered), keys_of(asked))
    assert found.tolist() == [ordered.index(uid) if uid in ordered else -1 for uid in asked]


def test_hash_numbers_are_uniform_and_independent() -> None:
    keys = keys_of([f"{i:032x}" for i in range(20_000)])  # uids that count up
    found = [kstest(hash_uniform(seed, keys), "uniform").pvalue for seed in range(100)]
    assert kstest(found, "uniform").pvalue > 0.01
    draws = hash_uniform(0, keys)
    entries = np.ones(len(keys), int)
    for other in (hash_uniform(1, keys), hash_uniform(0, keys, entries), hash_uniform(0, keys, purpose=1)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


def test_a_hash_depends_on_seed_and_key_alone() -> None:
    keys = keys_of([str(i) for i in range(50)])
    whole = hash_uniform(7, keys, np.arange(50))
    parts = [hash_uniform(7, keys[i : i + 1], np.array([i])) for i in reversed(range(50))]
    assert np.array_equal(np.concatenate(parts)[::-1], whole)
    with pytest.raises(UsageError, match="0 to 2"):
        hash_uniform(-1, keys)
