"""What every image tower must do, whatever library wrote it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import Record, Recorder, Site
from binderclip.models.towers.tokens import append_tokens, cls_bias, gather, gather_patches

NAMES = ("attn", "q", "k", "v", "attn_out", "block_in", "mlp_out")


def gradients(output: Tensor, x: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed scalar of the output with regard to pixels and every parameter that it reaches."""
    weights = torch.linspace(-1.0, 1.0, output.numel()).view_as(output)
    found = torch.autograd.grad((output * weights).sum(), [x, *parameters.values()], allow_unused=True)
    return {name: g for name, g in zip(["pixels", *parameters], found, strict=True) if g is not None}


def compare(case, forward, module, x: Tensor, tol: float = 1e-5, skip: tuple[str, ...] = ()) -> None:
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = case.tower(ours_x), forward(theirs_x)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=tol, rtol=tol)
    mine = gradients(ours, ours_x, dict(case.module.named_parameters()))
    other = gradients(theirs, theirs_x, dict(module.named_parameters()))
    assert mine.keys() == other.keys()
    for name, gradient in other.items():
        if not name.endswith(skip):
            scale = gradient.abs().max().clamp(min=1.0)
            assert torch.allclose(mine[name] / scale, gradient / scale, atol=tol), name


def test_composition_is_the_librarys_forward(case, pixels):
    compare(case, case.forward, case.module, pixels)


def test_composition_at_another_resolution(case):
    module, forward = case.at(case.other)
    x = torch.randn(2, 3, *case.other, generator=torch.Generator().manual_seed(3))
    # a model rebuilt at that size has a table of its own; where the library interpolates, its gradient is compared too
    skip = () if module is case.module else ("visual.positional_embedding", "pos_embed")
    compare(case, forward, module, x, skip=skip)


def test_forward_needs_no_gradients_and_changes_nothing(case, pixels):
    before = {name: p.clone() for name, p in case.module.state_dict().items()}
    with torch.no_grad():
        out = case.tower(pixels)
    assert not out.requires_grad
    assert all(torch.equal(before[name], p) for name, p in case.module.state_dict().items())


def test_values_alone_are_those_of_the_three(tower, pixels):
    tokens = tower.embed(pixels)
    for block in tower.blocks:
        assert torch.allclose(block.value(tokens.x), block.qkv(tokens.x, tower.rope(tokens))[2], atol=1e-6)


def test_the_sum_of_attention_maps_is_their_sum(tower, pixels):
    tokens, depth = tower.embed(pixels), tower.depth
    for wanted in (Record("attn") | Record("attn_sum"), Record("attn_sum")):
        with torch.no_grad():
            recorder, every = Recorder(wanted, depth), Recorder(Record("attn"), depth)
            out = tower.run(tokens, stop=-1, record=recorder)
            plain = tower.run(tokens, stop=-1, record=every)
        total = sum(every.values[Site("attn", layer)] for layer in range(depth - 1))
        assert torch.allclose(recorder.values[Site("attn_sum")], total, atol=1e-6)
        assert torch.allclose(out.x, plain.x, atol=1e-6)
        kept = {site: value for site, value in recorder.values.items() if site.name == "attn"}
        assert len(kept) == (depth - 1 if ("attn", None) in wanted.wanted else 0)
        assert all(torch.equal(value, every.values[site]) for site, value in kept.items())
    # With gradients nothing is added in place.
    recorder = Recorder(Record("attn_sum"), depth)
    tower.run(tower.embed(pixels.clone().requires_grad_()), record=recorder)
    recorder.values[Site("attn_sum")].square().sum().backward()
    with pytest.raises(UsageError, match="give no layers"):
        Record("attn_sum", layers=[0])


def test_blockwise_run_is_the_whole_run(tower, pixels):
    tokens = tower.embed(pixels)
    whole = tower.run(tokens)
    step = tokens
    for layer in range(tower.depth):
        step = tower.run(step, start=layer, stop=layer + 1)
    assert torch.allclose(step.x, whole.x, atol=1e-10)
    assert torch.allclose(tower.run(tower.run(tokens, stop=-1), start=-1).x, whole.x, atol=1e-10)


def test_recorded_attention_times_values_is_the_attention_output(tower, pixels):
    recorder = Recorder(
        Record("attn", "q", "k", "v", "attn_out", "block_in", "mlp_out", "block_out", "ln1"), tower.depth
    )
    explicit = tower.run(tower.embed(pixels), record=recorder).x
    assert torch.allclose(explicit, tower.run(tower.embed(pixels)).x, atol=1e-5)
    for layer, block in enumerate(tower.blocks):
        at = {name: recorder.values[Site(name, layer)] for name in NAMES}
        assert torch.allclose(at["attn"].sum(-1), torch.ones((), dtype=tower.dtype), atol=1e-5)
        assert torch.allclose(block.mix(at["attn"], at["v"]), at["attn_out"], atol=1e-5)
        rope = tower.rope(tower.embed(pixels))
        for name, value in zip("qkv", block.qkv(at["block_in"], rope), strict=True):
            assert torch.allclose(value, at[name], atol=1e-6)
        assert torch.allclose(block.weights(at["q"], at["k"]), at["attn"], atol=1e-6)
        middle = at["block_in"] + at["attn_out"]
        assert torch.allclose(block.mlp(middle), at["mlp_out"], atol=1e-5)
        assert torch.allclose(middle + at["mlp_out"], recorder.values[Site("block_out", layer)], atol=1e-6)


def test_gather_of_everything_changes_nothing(tower, pixels):
    tokens = tower.embed(pixels)
    same = gather(tokens, torch.arange(tokens.x.shape[1]))
    assert torch.equal(same.x, tokens.x)
    assert torch.equal(same.positions.expand_as(tokens.positions), tokens.positions)
    assert torch.allclose(tower.dense(tower.run(same)), tower.dense(tower.run(tokens)), atol=1e-10)


def test_order_of_patches_does_not_matter(tower, pixels):
    tokens = tower.embed(pixels)
    count = tokens.patches.shape[1]
    index = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(s)) for s in range(2)])
    shuffled = tower.run(gather_patches(tokens, index))
    straight = tower.run(tokens)
    assert torch.allclose(tower.pool(shuffled), tower.pool(straight), atol=1e-5)
    assert torch.allclose(tower.dense(shuffled), tower.dense(straight), atol=1e-5)


def test_forbidding_keys_is_dropping_them(tower, pixels):
    tokens = tower.embed(pixels)
    count = tokens.patches.shape[1]
    keep = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(s))[:5] for s in range(2)])
    kept = tower.run(gather_patches(tokens, keep))
    allowed = torch.zeros(2, tokens.x.shape[1], dtype=torch.bool)
    allowed[:, : tower.prefix] = True
    allowed.scatter_(1, keep + tower.prefix, True)
    bias = torch.zeros(allowed.shape, dtype=tower.dtype).masked_fill(~allowed, float("-inf"))[:, None, None, :]
    full = tower.run(tokens, attn_bias=bias)
    at = kept.positions.unsqueeze(-1).expand_as(kept.x)
    assert torch.allclose(full.x.gather(1, at), kept.x, atol=1e-5)
    masked = tower.run(type(tokens)(tokens.x, tokens.positions, allowed, tokens.grid, tokens.prefix))
    assert torch.allclose(masked.x, full.x, atol=1e-6)


def test_zero_bias_is_no_bias_and_blocks_limit_it(tower, pixels):
    tokens = tower.embed(pixels)
    length = tokens.x.shape[1]
    plain = tower.run(tokens).x
    assert torch.allclose(tower.run(tokens, attn_bias=torch.zeros(1, 1, length, length)).x, plain, atol=1e-5)
    bias = torch.randn(2, tower.heads, length, length, generator=torch.Generator().manual_seed(1))
    biased = tower.run(tokens, attn_bias=bias, bias_blocks=[-1])
    assert torch.allclose(
        tower.run(tokens, attn_bias=bias, bias_blocks=[], stop=-1).x, tower.run(tokens, stop=-1).x, atol=1e-10
    )
    assert torch.allclose(tower.run(tower.run(tokens, stop=-1), start=-1, attn_bias=bias).x, biased.x, atol=1e-10)
    assert not torch.allclose(biased.x, plain, atol=1e-3)


def test_bias_follows_gathered_tokens(tower, pixels):
    tokens = tower.embed(pixels)
    length = tokens.x.shape[1]
    bias = torch.randn(1, 1, length, length, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(tokens.patches.shape[1], generator=torch.Generator().manual_seed(4))
    straight = tower.run(tokens, attn_bias=bias)
    shuffled = tower.run(gather_patches(tokens, order), attn_bias=bias)
    assert torch.allclose(tower.dense(shuffled), tower.dense(straight), atol=1e-5)
    keys = bias[:, :, :1]
    straight = tower.run(tokens, attn_bias=keys)
    shuffled = tower.run(gather_patches(tokens, order), attn_bias=keys)
    assert torch.allclose(tower.dense(shuffled), tower.dense(straight), atol=1e-5)


def test_bias_acts_equally_on_fused_and_explicit_attention(tower, pixels):
    tokens = tower.embed(pixels)
    bias = torch.randn(1, tower.heads, *[tokens.x.shape[1]] * 2, generator=torch.Generator().manual_seed(2))
    fused = tower.run(tokens, attn_bias=bias).x
    explicit = tower.run(tokens, attn_bias=bias, record=Record("attn")).x
    assert torch.allclose(fused, explicit, atol=1e-5)


def test_appended_tokens_that_nobody_attends_to_alter_nothing(tower, pixels):
    tokens = tower.embed(pixels)
    length = tokens.x.shape[1]
    longer = append_tokens(tokens, tokens.x[:, :3])
    if tower.pooling == "latent":
        with pytest.raises(NotSupported, match="appended"):
            tower.pool(longer)
        return
    bias = torch.zeros(1, 1, length + 3, length + 3)
    bias[..., :length, length:] = float("-inf")
    out = tower.run(longer, attn_bias=bias)
    straight = tower.run(tokens)
    assert torch.allclose(out.x[:, :length], straight.x, atol=1e-5)
    assert torch.allclose(tower.pool(out), tower.pool(straight), atol=1e-5)
    assert torch.allclose(tower.dense(out), tower.dense(straight), atol=1e-5)


def test_on_block_sees_every_block_and_may_rewire(tower, pixels):
    tokens = tower.embed(pixels)
    seen = []

    def drop_late(layer, current):
        seen.append((layer, current.x.shape[1]))
        return gather_patches(current, torch.arange(4)) if layer == 2 else current

    out = tower.run(tokens, on_block=drop_late)
    by_hand = tower.run(gather_patches(tower.run(tokens, stop=2), torch.arange(4)), start=2)
    assert seen == [(layer, tokens.x.shape[1]) for layer in range(tower.depth)]
    assert torch.allclose(out.x, by_hand.x, atol=1e-10)


def test_dense_is_the_head_on_one_token(tower, pixels):
    tokens = tower.run(tower.embed(pixels))
    dense = tower.dense(tokens)
    assert dense.shape == (2, tower.embed_dim, *tokens.grid)
    if tower.pooling == "token":  # the class token's place taken by the patch
        swapped = replace(tokens, x=tokens.patches[:, 6:7], positions=tokens.positions[:, :1])
        expected = tower.project(tower.pool(swapped))
    else:  # a pool that has a single patch to look at
        lone = type(tokens)(tokens.patches[:, 6:7], tokens.positions[:, :1], grid=(1, 1))
        prefix = tower.prefix
        if tower.pooling == "latent" or (tower.pooling == "map" and tower.pools_prefix):
            lone = type(tokens)(tokens.patches[:, 6:7], tokens.positions[:, :1], grid=(1, 1), prefix=0)
        elif prefix:
            lone = type(tokens)(
                torch.cat([tokens.x[:, :prefix], tokens.patches[:, 6:7]], 1), tokens.positions[:, : prefix + 1],
                grid=(1, 1), prefix=prefix,
            )  # fmt: skip
        expected = tower.project(tower.pool(lone))
    row, column = divmod(6, tokens.grid[1])
    assert torch.allclose(dense[:, :, row, column], expected, atol=1e-5)


def test_value_path_is_identity_attention(tower, pixels):
    entering = tower.run(tower.embed(pixels), stop=-1)
    length = entering.x.shape[1]
    only_self = torch.full((1, 1, length, length), float("-inf"))
    only_self[..., range(length), range(length)] = 0.0
    expected = tower.run(entering, start=-1, attn_bias=only_self)
    assert torch.allclose(tower.value_path(entering, residual=True, mlp=True).x, expected.x, atol=1e-5)
    bare = tower.value_path(entering).x
    assert torch.allclose(bare + entering.x, tower.value_path(entering, residual=True).x, atol=1e-6)
    assert torch.allclose(tower.dense_images(pixels, path="value"), tower.dense(entering.with_x(bare)), atol=1e-6)


def test_position_offset_and_modes(case):
    tower = case.tower
    training = tower.position()
    if training is None:
        assert tower.rope(tower.embed(torch.zeros(1, 3, 32, 32))) is not None, "some positions there must be"
        return
    assert training.shape == (1, tower.prefix + 16, tower.width)
    for mode in ("bicubic", "bilinear"):
        larger = tower.position((6, 5), mode, offset=0.1)
        body = training[:, tower.prefix :].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(body, scale_factor=(6.1 / 4, 5.1 / 4), mode=mode)
        assert torch.allclose(larger[:, tower.prefix :], expected.flatten(2).transpose(1, 2), atol=1e-6)
        assert torch.equal(larger[:, : tower.prefix], training[:, : tower.prefix])


def test_half_precision_tower(case, pixels):
    import copy

    from binderclip.models.towers import open_image_tower

    exact = case.tower(pixels)
    tower = open_image_tower(copy.deepcopy(case.module).to(torch.bfloat16))
    out = tower(pixels)
    assert out.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(out.float(), exact).min() > 0.99


def test_bad_input_is_refused(case):
    tower = case.tower
    with pytest.raises(UsageError, match="multiples of the patch, 8"):
        tower.embed(torch.zeros(1, 3, 33, 32))
    with pytest.raises(UsageError, match="B, 3, H, W"):
        tower.embed(torch.zeros(3, 32, 32))
    tokens = tower.embed(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match="fits neither"):
        tower.run(tokens, attn_bias=torch.zeros(1, 1, 3, 3))
    with pytest.raises(UsageError, match="not a range"):
        tower.run(tokens, start=2, stop=1)
    with pytest.raises(UsageError, match="needs every patch"):
        tower.dense(gather_patches(tokens, torch.arange(3)))


def test_cls_bias_draws_only_the_class_token(get_case, pixels):
    tower = get_case("open_clip").tower
    tokens = tower.embed(pixels)
    region = torch.zeros(4, 4)
    region[1:3, 2:] = 0.7
    recorder = Recorder(Record("attn"), tower.depth)
    tower.run(tokens, stop=1, attn_bias=cls_bias(region), record=recorder)
    drawn = recorder.values[Site("attn", 0)]
    recorder = Recorder(Record("attn"), tower.depth)
    tower.run(tokens, stop=1, record=recorder)
    plain = recorder.values[Site("attn", 0)]
    assert torch.equal(drawn[:, :, 1:], plain[:, :, 1:])
    ratio = drawn[:, :, 0] / plain[:, :, 0]
    inside = torch.cat([torch.zeros(1), region.flatten()]) > 0
    # softmax shift: the odds of the region grow by exp(0.7), whatever the logits
    odds = ratio[..., inside].mean(-1) / ratio[..., ~inside].mean(-1)
    assert torch.allclose(odds, torch.full_like(odds, 0.7).exp(), atol=1e-4)
