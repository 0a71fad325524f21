"""Balanced pruning: each stage against the rule as a loop, budgets, and the calibration of layers (p069)."""

from __future__ import annotations

import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from binderclip.compress import (
    BalancedStage,
    BalancedTokenPruning,
    PruningStage,
    TokenContext,
    TokenPruner,
    attention_criterion,
    calibrate_stages,
    spatial_seed_tokens,
)
from binderclip.compress.tokens import balanced
from binderclip.errors import UsageError
from binderclip.models.vision_language.decoder import Decoder, DecoderNet


def entering(decoder, tokens):
    """Tokens that enter each layer, and those that leave the last."""
    found: list = []
    last = decoder.run(tokens, on_block=lambda layer, now: found.append(now) or now)
    return found, last


def diverse(distance: np.ndarray, count: int, start: set[int]) -> set[int]:
    chosen = set(start)
    for _ in range(count):
        if not chosen:
            nearest = (distance + np.diag(np.full(len(distance), np.inf))).min(1)
        else:
            nearest = distance[:, sorted(chosen)].min(1)
            nearest[sorted(chosen)] = -1
        chosen.add(int(nearest.argmax()))
    return chosen


def attended(attention: np.ndarray, count: int, ratio: float, first: int) -> set[int]:
    pool = sorted(range(len(attention)), key=lambda token: (-attention[token], token))[: int(count * ratio)]
    return set(([t for t in pool if t < first] + [t for t in pool if t >= first])[:count])


def stage_as_a_loop(features, attention, seed, keep, counts, ratio):
    """Indices of the current sequence that one stage keeps."""
    distance = pairwise_distances(features, metric="cosine")
    union = set(seed) | diverse(distance, counts[0], set()) | attended(attention, counts[1], ratio, keep)
    union = set(sorted(union, key=lambda token: (-attention[token], token))[:keep])
    return sorted(diverse(distance, keep - len(union), union))


def test_the_first_stage_against_a_loop(decoder, sequence):
    tokens = sequence(grid=(8, 8))
    states, _ = entering(decoder, tokens)
    attention = attention_criterion(TokenContext(decoder, 2, states[2], states[1], 64), rope=True, over="all").numpy()
    kept = BalancedTokenPruning((2, 3, 5), drop=None).run(decoder, tokens).kept
    seed = spatial_seed_tokens((8, 8), 16).nonzero()[:, 0].tolist()
    for number in range(2):  # K = 32, 0.3 K = 9.6
        features = states[2].patches[number].numpy()
        expected = stage_as_a_loop(features, attention[number], seed, 32, (9, 9), 3.7)
        assert kept[2][number].nonzero()[:, 0].tolist() == expected
    assert [int(kept[layer].sum(1).unique()) for layer in (2, 3, 5)] == [32, 16, 5]
    assert not bool((kept[3] & ~kept[2]).any() | (kept[5] & ~kept[3]).any())


def test_the_second_stage_against_a_loop(decoder, sequence):
    """Indices of the rebalancing are those of the shorter sequence."""
    tokens = sequence(batch=1, grid=(8, 8))
    first = BalancedTokenPruning((2,), drop=None, stages=(BalancedStage(0.5, 0.25, 0.3, 0.3, 3.7),))
    seen = {}

    def look(context):
        seen["features"] = context.hidden[0].numpy()
        seen["attention"] = attention_criterion(context, rope=True, over="all")[0].numpy()
        seen["places"] = context.places[0].numpy()
        return context.present

    TokenPruner([*first.stages, PruningStage(3, look)]).run(decoder, tokens)
    kept = BalancedTokenPruning((2, 3, 5), drop=None).run(decoder, tokens).kept[3][0].nonzero()[:, 0].tolist()
    index = stage_as_a_loop(seen["features"], seen["attention"], [], 16, (1, 14), 1.5)
    assert kept == seen["places"][index].tolist()


def test_a_union_that_is_too_large_loses_the_least_attended(decoder, sequence):
    tokens = sequence(grid=(8, 8))
    wide = BalancedStage(0.25, 0.25, 1.0, 1.0, 1.0)  # three sets of 16 each
    run = BalancedTokenPruning((2,), drop=4, stages=(wide,)).run(decoder, tokens)
    states, _ = entering(decoder, tokens)
    attention = attention_criterion(TokenContext(decoder, 2, states[2], states[1], 64), rope=True, over="all")
    # the most attended are part of the union, so they win
    assert torch.equal(run.kept[2], attention >= attention.topk(16).values[:, -1:])
    assert run.tokens.x.shape[1] == 6  # first word and question


def test_keeping_all_is_the_full_model_bit_for_bit(decoder, sequence):
    tokens = sequence()
    stages = (BalancedStage(1.0, 0.25, 0.3, 0.3, 3.7),) * 2
    run = BalancedTokenPruning((1, 3), drop=None, stages=stages).run(decoder, tokens)
    assert torch.equal(run.tokens.x, decoder.run(tokens).x)
    assert torch.equal(run.tokens.positions.expand(2, -1), tokens.positions.expand(2, -1))


def test_calibration_measures_and_chooses(decoder, sequence):
    tokens = sequence(batch=3)
    found = calibrate_stages(decoder, [sequence(batch=1), tokens], stages=2, apart=2)
    states, last = entering(decoder, tokens)
    single, single_last = entering(decoder, sequence(batch=1))
    for layer in range(6):
        cosines = []
        for some, out in ((states, last), (single, single_last)):
            a = some[layer].patches.numpy()
            b = (some[layer + 1] if layer < 5 else out).patches.numpy()
            cosines += list(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean(1))
        assert found.similarity[layer] == pytest.approx(np.mean(cosines), abs=1e-6)
    pairs = [pair for pair in combinations(range(5), 2) if pair[1] - pair[0] >= 2]  # the last layer has none after it
    least = min(pairs, key=lambda pair: found.similarity[pair[0]] + found.similarity[pair[1]])
    assert found.layers == (least[0] + 1, least[1] + 1)
    assert all(0 <= value <= 1 for value in (*found.overlap, *found.attention))
    assert found.drop is None


def test_calibration_finds_room_where_the_least_similar_layer_takes_it(monkeypatch, sequence):
    """Eight layers, three stages, three apart: only 1, 4, 7 fit, whichever layer changes tokens most."""
    deep = Decoder(DecoderNet(8, 36, 20, width=32, depth=8, heads=2, ratio=2).double().eval().requires_grad_(False))
    statistics = torch.full((3, 8), 0.9, dtype=torch.float64)
    statistics[0, 4] = 0.1
    monkeypatch.setattr(balanced, "_layer_statistics", lambda stack, tokens: statistics)
    assert calibrate_stages(deep, [sequence()], stages=3, apart=3).layers == (1, 4, 7)
    assert calibrate_stages(deep, [sequence()], stages=2, apart=3).layers == (1, 5)


@pytest.mark.parametrize("seed", range(20))
def test_the_set_apart_against_all_sets(seed):
    rng = np.random.default_rng(seed)
    values, count, apart = rng.random(10), int(rng.integers(1, 5)), int(rng.integers(1, 5))
    sets = [s for s in combinations(range(10), count) if all(b - a >= apart for a, b in pairwise(s))]
    expected = min(sets, key=lambda s: values[list(s)].sum(), default=None)
    assert balanced.least_set_apart(values.tolist(), count, apart) == expected


def test_calibration_finds_where_attention_ends(decoder, sequence):
    """Queries and keys of the last two layers set so that the last word looks at itself alone."""
    net = copy.deepcopy(decoder.module)
    tokens = sequence()
    x = tokens.x.clone()
    for layer in list(net.layers)[4:]:
        layer.qkv.weight[:64] = 0
        layer.qkv.weight[[0, 16, 32, 48], 0] = torch.tensor([300.0, 300.0, 300.0, 300.0], dtype=torch.float64)
    x[:, :, 0], x[:, -1, 0] = 0.0, 3.0
    for layer in net.layers:  # component 0 says "last word" all the way
        layer.out.weight[0], layer.down.weight[0] = 0.0, 0.0
    found = calibrate_stages(Decoder(net), [tokens.with_x(x)], stages=1, apart=1)
    assert found.attention[4] < 1e-6 < found.attention[3]
    assert found.drop == max(4, found.layers[0] + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BalancedTokenPruning((2, 4)), "one stage a layer"),
        (lambda: BalancedTokenPruning((2, 4, 6), drop=5), "rising layers"),
        (lambda: BalancedTokenPruning((0, 4, 6)), "layer"),
        (lambda: BalancedTokenPruning((2,), stages=(BalancedStage(0.0, 0.1, 0.1, 0.1, 1.0),)), "keep"),
        (lambda: BalancedTokenPruning((2,), stages=(BalancedStage(0.5, 1.1, 0.1, 0.1, 1.0),)), "seed"),
        (lambda: BalancedTokenPruning((2,), stages=(BalancedStage(0.5, 0.1, 0.1, 0.1, 0.9),)), "ratio"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_calibration_refuses(decoder, sequence):
    with pytest.raises(UsageError, match="at least one batch"):
        calibrate_stages(decoder, [])
    with pytest.raises(UsageError, match="no room for 3 stages 3 apart"):
        calibrate_stages(decoder, [sequence()], stages=3, apart=3)
