"""Runs that prune: what is kept, that nothing else changes, and what it costs (p069, p073)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from binderclip.compress import FeatherTokenPruning, PruningStage, TokenPruner, UniformTokenPruning
from binderclip.compress.tokens.pruner import kept_tokens, layer_flops
from binderclip.errors import UsageError


def by_index(*rows):
    """A selection of fixed indices, a list for each image."""

    def select(context):
        mask = torch.zeros_like(context.present)
        for number, row in enumerate(rows):
            mask[number, row] = True
        return mask

    return select


def test_what_stays_is_what_attention_sees(decoder, sequence):
    """Dropping tokens before layer 2 is forbidding attention to them from there on."""
    tokens, keep = sequence(), [2, 5, 11, 30]
    run = TokenPruner([PruningStage(2, by_index(keep, keep))]).run(decoder, tokens)
    whole = torch.zeros(1, 1, 42, 42, dtype=torch.float64)
    gone = [1 + place for place in range(36) if place not in keep]
    whole[..., gone] = float("-inf")
    whole[..., range(42), range(42)] = 0.0  # a dropped token still has to attend to something
    masked = decoder.run(tokens, attn_bias=whole, bias_blocks=range(2, 6))
    left = [0, *(1 + place for place in keep), *range(37, 42)]
    torch.testing.assert_close(run.tokens.x, masked.x[:, left])
    assert run.tokens.positions[0].tolist() == left
    assert run.kept[2].sum() == 8
    assert run.lengths == (42.0, 42.0, 10.0, 10.0, 10.0, 10.0)


def test_unequal_counts_give_what_each_image_gives_alone(decoder, sequence):
    tokens, rows = sequence(), ([1, 2, 3], [0, 7, 8, 20, 35])
    stages = [PruningStage(1, by_index(*rows)), PruningStage(3, lambda context: context.present & (context.places > 1))]
    both = TokenPruner(stages).run(decoder, tokens)
    assert both.lengths[1] == 6 + 4
    assert both.kept[3].sum(1).tolist() == [2, 4]
    for number, row in enumerate(rows):
        one = type(tokens)(
            tokens.x[number : number + 1], tokens.positions, grid=tokens.grid, prefix=1, extra=5, causal=True
        )
        alone = TokenPruner([PruningStage(1, by_index(row)), stages[1]]).run(decoder, one)
        torch.testing.assert_close(decoder.pool(both.tokens)[number], decoder.pool(alone.tokens)[0])


def test_a_mask_goes_when_no_padding_is_left(decoder, sequence):
    stages = [PruningStage(1, by_index([1, 2], [3, 4, 5])), PruningStage(2, by_index([0, 1], [0, 1]))]
    run = TokenPruner(stages).run(decoder, sequence())
    assert run.tokens.mask is None
    assert run.kept[2].sum(1).tolist() == [2, 2]


def test_dropping_everything_leaves_words_alone(decoder, sequence):
    run = TokenPruner([PruningStage(4, lambda context: torch.zeros_like(context.present))]).run(decoder, sequence())
    assert run.tokens.x.shape[1] == 6
    assert run.tokens.x.isfinite().all()


def test_keeping_all_is_the_full_model_bit_for_bit(decoder, sequence):
    tokens = sequence()
    run = FeatherTokenPruning((1, 3), keep_rate=1.0).run(decoder, tokens)
    assert torch.equal(run.tokens.x, decoder.run(tokens).x)
    assert run.flops_ratio() == 1.0
    assert run.kept_ratio() == 1.0


def test_flops_are_those_that_torch_counts(decoder, sequence):
    tokens = sequence(batch=1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        decoder.run(tokens)
    run = UniformTokenPruning(2, stride=1).run(decoder, tokens)
    assert run.flops() == counter.get_total_flops()
    pruned = UniformTokenPruning(2, stride=3).run(decoder, tokens)
    assert pruned.flops() == 2 * layer_flops(decoder, 0, 42) + 4 * layer_flops(decoder, 0, 10)
    assert pruned.kept_ratio() == pytest.approx((2 * 36 + 4 * 4) / (6 * 36))


def test_refusals(decoder, sequence):
    tokens = sequence()
    with pytest.raises(UsageError, match="rising layers"):
        TokenPruner([])
    with pytest.raises(UsageError, match="rising layers"):
        TokenPruner([PruningStage(3, by_index([0])), PruningStage(3, by_index([0]))])
    with pytest.raises(UsageError, match="layer 16 does not exist"):
        FeatherTokenPruning().run(decoder, tokens)
    with pytest.raises(UsageError, match="whole grid"):
        UniformTokenPruning(2).run(decoder, kept_tokens(tokens, torch.arange(36).expand(2, -1) < 9))
    with pytest.raises(UsageError, match="keep must be a mask"):
        TokenPruner([PruningStage(1, lambda context: context.hidden)]).run(decoder, tokens)  # type: ignore[arg-type,return-value]
