"""Heads in words: planted outputs whose texts, roles and shares are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import (
    TextSpan,
    decompose_image_embedding,
    description_pool,
    name_heads,
    spurious_heads,
    text_roles,
)

WORDS = ["red", "green", "a cat", "a dog", "a forest", "a beach"]
ROLES = ["colour", "colour", "animal", "animal", "place", "place"]


@pytest.fixture
def planted(clip_model):
    """Two blocks of four heads; head (1, 0) varies along two colours, (1, 1) along an animal and a place."""
    rows = torch.eye(24)[:6]
    generator = torch.Generator().manual_seed(0)
    found = decompose_image_embedding(clip_model, torch.rand(2, 3, 32, 32, generator=generator))
    noise = torch.randn(200, 4, generator=generator)
    values = torch.zeros(200, 2, 4, 24)
    values[:, 1, 0] = 3 * noise[:, :1] * rows[0] + noise[:, 1:2] * rows[1]
    values[:, 1, 1] = noise[:, 2:3] * rows[2] + 0.9 * noise[:, 3:4] * rows[5]
    return replace(found, values=values, rest={}, mlps=torch.zeros(200, 2, 24), length=torch.ones(200)), rows


def test_planted_heads_get_their_texts_roles_and_shares(planted) -> None:
    found, rows = planted
    named = {(one.layer, one.head): one for one in name_heads(found, rows, WORDS, roles=ROLES, span=TextSpan(3))}
    assert len(named) == 8
    colours, mixed = named[1, 0], named[1, 1]
    assert colours.span.texts == ("red", "green")
    assert mixed.span.texts[:2] == ("a cat", "a beach")
    assert (colours.role, named[0, 2].role) == ("colour", "mixed")
    variance = found.values.flatten(1, 2).var(0, correction=0).sum(1)
    assert colours.share == pytest.approx(float(variance[4] / variance.sum()), abs=1e-6)
    assert sum(one.share for one in named.values()) == pytest.approx(1)
    assert mixed.weight(["animal", "place"]) == pytest.approx(1)
    assert spurious_heads(list(named.values()), ["colour"]) == [(1, 0)]
    assert spurious_heads(list(named.values()), ["place", "animal"], layers=[1]) == [(1, 1)]
    assert spurious_heads(list(named.values()), ["place"], layers=[0]) == []


def test_the_roles_of_texts_are_looked_up_when_they_are_not_given(planted) -> None:
    found, rows = planted
    named = name_heads(found, rows, WORDS)
    assert next(one for one in named if (one.layer, one.head) == (1, 0)).roles == ("colour", "colour")


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("a red apple on a beach", "food"),
        ("a picture of a cat", "animal"),
        ("two dogs", "animal"),
        ("something on the left", "position"),
        ("a dark picture", "colour"),
        ("qwertz", "other"),
    ],
)
def test_a_text_has_the_role_of_its_head_noun(text: str, role: str) -> None:
    assert text_roles([text]) == [role]


def test_the_pool_is_large_unrepeated_and_has_a_role_for_nearly_all() -> None:
    pool = description_pool()
    assert 1000 < len(pool) < 3000
    assert len(set(pool.texts)) == len(pool.texts) == len(pool.roles)
    assert pool.roles.count("other") < 0.2 * len(pool)
    assert {"colour", "shape", "animal", "place", "texture"} <= set(pool.roles)


def test_bad_input_is_named(planted, clip_model) -> None:
    found, rows = planted
    with pytest.raises(UsageError, match="name each of the 6 rows"):
        name_heads(found, rows, WORDS[:3])
    with pytest.raises(UsageError, match="2 roles for 6 texts"):
        name_heads(found, rows, WORDS, roles=["a", "b"])
    with pytest.raises(UsageError, match="by='head'"):
        name_heads(decompose_image_embedding(clip_model, torch.rand(2, 3, 32, 32), by="layer"), rows, WORDS)
    with pytest.raises(UsageError, match="list of roles"):
        spurious_heads([], "place")
    with pytest.raises(UsageError, match="least must be"):
        spurious_heads([], ["place"], least=2)
    with pytest.raises(UsageError, match="single text"):
        text_roles("red")
