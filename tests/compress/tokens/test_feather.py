"""FEATHER, FastV and even grids: counts, positions, and the released code's truncation (p073)."""

from __future__ import annotations

import pytest
import torch

from binderclip.compress import (
    FastVTokenPruning,
    FeatherTokenPruning,
    PruningStage,
    TokenContext,
    TokenPruner,
    UniformTokenPruning,
    attention_criterion,
    strided_tokens,
)
from binderclip.errors import UsageError


def entering(decoder, tokens):
    """Tokens that enter each layer of the whole model."""
    found = []
    decoder.run(tokens, on_block=lambda layer, now: found.append(now) or now)
    return found


def top(scores, count):
    return set(scores.topk(count).indices.tolist())


@pytest.mark.parametrize("rope", [True, False])
def test_fastv_keeps_the_most_attended_of_the_layer_before(decoder, sequence, rope):
    tokens = sequence()
    states = entering(decoder, tokens)
    scores = attention_criterion(TokenContext(decoder, 3, states[3], states[2], 36), rope=rope)
    kept = FastVTokenPruning(3, keep_rate=0.25, rope=rope).run(decoder, tokens).kept[3]
    assert [set(row.nonzero()[:, 0].tolist()) for row in kept] == [top(row, 9) for row in scores]


def test_the_turn_changes_what_is_kept(decoder, sequence):
    kept = [FastVTokenPruning(3, rope=rope).run(decoder, sequence()).kept[3] for rope in (True, False)]
    assert not torch.equal(*kept)


def test_feather_keeps_top_and_grid_first_and_a_part_of_the_rest_later(decoder, sequence):
    tokens = sequence(grid=(9, 9))
    run = FeatherTokenPruning((2, 4), keep_rate=0.3, stride=3).run(decoder, tokens)
    states = entering(decoder, tokens)
    scores = attention_criterion(TokenContext(decoder, 2, states[2], states[1], 81), rope=False)
    even = set(strided_tokens((9, 9), 3).nonzero()[:, 0].tolist())
    assert len(even) == 9
    for row, score in zip(run.kept[2], scores, strict=True):
        assert set(row.nonzero()[:, 0].tolist()) == top(score, 24) | even  # round(0.3 * 81)
    left = run.kept[2].sum(1)
    assert run.kept[4].sum(1).tolist() == [round(0.09 * count) for count in left.tolist()]
    assert bool((run.kept[4] & ~run.kept[2]).sum() == 0)
    # the second choice: scored again among what the first one left, without the turn, in the layer before
    seen = {}

    def look(context):
        seen["scores"] = attention_criterion(context, rope=False)
        seen["places"] = context.places.expand(2, -1)
        return context.present

    TokenPruner([FeatherTokenPruning((2, 4), keep_rate=0.3, stride=3).stages[0], PruningStage(4, look)]).run(
        decoder, tokens
    )
    for row, score, places, count in zip(run.kept[4], seen["scores"], seen["places"], left.tolist(), strict=True):
        best = sorted(top(score, round(0.09 * count)))
        assert set(row.nonzero()[:, 0].tolist()) == set(places[best].tolist())
    # the grid is not protected in the second stage, which sees its tokens like all others
    assert not bool((run.kept[4] & strided_tokens((9, 9), 3)).sum() == run.kept[4].sum())


@pytest.mark.parametrize("reduction", [0.8, 0.9, 0.7, 0.45, 0.1])
def test_the_released_code_truncates(decoder, sequence, reduction):
    """Its count is `int(N * (1 - R))` in Python's floats, whichever way the rate that stays is written."""
    tokens = sequence(grid=(10, 10))
    for rate in (1 - reduction, float(f"{1 - reduction:.2f}")):
        plain = FastVTokenPruning(3, keep_rate=rate).run(decoder, tokens).kept[3].sum(1)
        released = FastVTokenPruning(3, keep_rate=rate, released=True).run(decoder, tokens).kept[3].sum(1)
        assert plain.tolist() == [round(100 - 100 * reduction)] * 2
        assert released.tolist() == [int(100 * (1 - reduction))] * 2
        run = FeatherTokenPruning((2, 4), keep_rate=rate, stride=100, released=True).run(decoder, tokens)
        left = run.kept[2].sum(1).tolist()
        assert set(left) <= {released[0].item(), released[0].item() + 1}  # one token of the grid
        assert run.kept[4].sum(1).tolist() == [int((1 - reduction) ** 2 * count) for count in left]


def test_the_released_code_keeps_19_of_100_at_a_fifth(decoder, sequence):
    run = FastVTokenPruning(3, keep_rate=0.2, released=True).run(decoder, sequence(grid=(10, 10)))
    assert run.kept[3].sum(1).tolist() == [19, 19]


def test_even_grid_and_last_tokens(decoder, sequence):
    tokens = sequence()
    kept = UniformTokenPruning(3, stride=3, last=0.25).run(decoder, tokens).kept[3][0]
    assert set(kept.nonzero()[:, 0].tolist()) == {0, 3, 18, 21} | set(range(27, 36))
    tail = UniformTokenPruning(3, stride=None, last=0.25).run(decoder, tokens).kept[3][0]
    assert tail.nonzero()[:, 0].tolist() == list(range(27, 36))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FastVTokenPruning(0), "layer"),
        (lambda: FastVTokenPruning(keep_rate=0.0), "keep_rate"),
        (lambda: FastVTokenPruning(keep_rate=1.2), "keep_rate"),
        (lambda: FeatherTokenPruning(keep_rate=float("nan")), "keep_rate"),
        (lambda: FeatherTokenPruning((4, 2)), "rising layers"),
        (lambda: FeatherTokenPruning(stride=0), "stride"),
        (lambda: UniformTokenPruning(stride=None), "last"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UsageError, match=message):
        make()
