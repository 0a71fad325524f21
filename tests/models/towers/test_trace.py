"""Traces: values that took part, gradients in one backward, for towers and for any module."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from binderclip.errors import UsageError
from binderclip.models.towers import Record, Site, open_image_tower, open_text_tower
from binderclip.models.towers.tokens import gather_patches
from binderclip.models.towers.trace import capture, trace

IDS = torch.tensor([[38, 5, 6, 39, 0, 0, 0, 0], [38, 9, 8, 7, 6, 5, 4, 39]])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 4, "layers": 3}
    made = open_clip.CLIP(24, vision_cfg=vision, text_cfg=text).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made.requires_grad_(False)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


def test_input_gradient_is_the_librarys(model, pixels, text):
    seen = trace(open_image_tower(model), pixels)
    ours = seen.grad(lambda t: F.cosine_similarity(t.embedding, text), Site("input"))
    x = pixels.clone().requires_grad_()
    F.cosine_similarity(model.encode_image(x), text).sum().backward()
    assert torch.allclose(ours, x.grad, atol=1e-12)
    assert not pixels.requires_grad


def test_gradients_agree_with_finite_differences(model, pixels, text):
    tower = open_image_tower(model)
    seen = trace(tower, pixels, record=Record("block_in", "v", "attn", layers=[1]))
    target = lambda t: F.cosine_similarity(t.embedding, text)  # noqa: E731
    sites = [Site("block_in", 1), Site("v", 1), Site("attn", 1)]
    gradients = seen.grad(target, sites)
    step, generator = 1e-6, torch.Generator().manual_seed(3)
    for site, gradient in zip(sites, gradients, strict=True):
        assert gradient.shape == seen.value(site).shape
        direction = torch.randn(gradient.shape, dtype=torch.float64, generator=generator)
        scores = [score_with(tower, seen, site, direction * sign * step, text) for sign in (1, -1)]
        measured = (scores[0] - scores[1]) / (2 * step)
        expected = (gradient * direction).flatten(1).sum(1)
        assert torch.allclose(measured, expected, rtol=1e-5, atol=1e-8), site


def score_with(tower, seen, site, change, text):
    """The score after `site` of block 1 was moved, rebuilt from the block's pieces."""
    block = tower.blocks[1]
    stream = seen.value(Site("block_in", 1)).detach()
    if site.name == "block_in":
        stream = stream + change
    q, k, v = block.qkv(stream)
    weights = block.weights(q, k)
    v = v + change if site.name == "v" else v
    weights = weights + change if site.name == "attn" else weights
    stream = stream + block.mix(weights, v)
    stream = stream + block.mlp(stream)
    final = tower.run(seen.start.with_x(stream), start=2)
    return F.cosine_similarity(tower.project(tower.pool(final)), text).detach()


def test_one_backward_for_all_sites(model, pixels, text, monkeypatch):
    seen = trace(open_image_tower(model), pixels, record=Record("attn", "v"))
    calls = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or real(*a, **k))
    target = lambda t: t.embedding @ text  # noqa: E731
    sites = [Site("attn", 0), Site("v", -1), Site("input"), Site("pooled")]
    together = seen.grad(target, sites)
    again = [seen.grad(target, site) for site in sites]
    assert len(calls) == 1
    assert all(a is b for a, b in zip(together, again, strict=True))
    other = seen.grad(lambda t: -(t.embedding @ text), Site("attn", 0))
    assert len(calls) == 2
    assert torch.allclose(other, -together[0])


def test_tensor_targets_and_second_derivatives(model, pixels, text):
    seen = trace(open_image_tower(model), pixels, record=Record("attn"))
    score = seen.embedding @ text
    assert torch.allclose(seen.grad(score, "embedding"), text.expand(2, -1))
    first = seen.grad(score, "input", create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), seen.value("input"))
    assert second.abs().max() > 0


def test_samples_do_not_interact(model, pixels, text):
    tower = open_image_tower(model)
    both = trace(tower, pixels).grad(lambda t: F.cosine_similarity(t.embedding, text), "input")
    alone = trace(tower, pixels[:1]).grad(lambda t: F.cosine_similarity(t.embedding, text), "input")
    assert torch.allclose(both[:1], alone, atol=1e-12)


def test_only_what_is_asked_is_kept(model, pixels):
    seen = trace(open_image_tower(model), pixels, record=Record("attn", layers=[-1]) | Record("q", layers=[0]))
    names = {site for site in seen.values if site.layer is not None}
    assert names == {Site("attn", 2), Site("q", 0), Site("block_in", 0)}
    assert torch.equal(seen.value(Site("attn", -1)), seen.value(("attn", 2)))
    assert torch.equal(seen.value("embedding"), seen.embedding)
    tower = open_image_tower(model)
    assert torch.allclose(tower.norm_pre(seen.value("embedded")), seen.value(Site("block_in", 0)))


def test_without_gradients_there_are_values_only(model, pixels, text):
    with torch.no_grad():
        seen = trace(open_image_tower(model), pixels, record=Record("attn"))
    assert seen.value(Site("attn", 0)).shape == (2, 4, 17, 17)
    with pytest.raises(UsageError, match="no_grad"):
        seen.grad(lambda t: t.embedding @ text, "input")


def test_pruned_run_is_traced_too(model, pixels, text):
    def drop(layer, tokens):
        return gather_patches(tokens, torch.arange(5)) if layer == 1 else tokens

    seen = trace(open_image_tower(model), pixels, record=Record("attn"), on_block=drop)
    assert [seen.value(Site("attn", layer)).shape[-1] for layer in range(3)] == [17, 6, 6]
    assert seen.grad(lambda t: t.embedding @ text, Site("attn", 1)).abs().max() > 0


def test_text_attention_has_gradients(model, text):
    tower = open_text_tower(model)
    seen = trace(tower, IDS, record=Record("attn"))
    assert torch.allclose(seen.embedding, model.encode_text(IDS))
    target = lambda t: F.cosine_similarity(t.embedding, text)  # noqa: E731
    attention, words = seen.grad(target, [Site("attn", -1), Site("input")])
    # only the row of the pooled word reaches the output in the last block
    assert attention[0, :, 3].abs().max() > 0
    assert attention[0, :, [0, 1, 2, 4, 5, 6, 7]].abs().max() == 0
    assert words[0, 4:].abs().max() == 0  # causal: words after the end are not seen
    split = seen.contributions("token")
    assert torch.allclose(split.total(), seen.embedding, atol=1e-10)
    assert split.values[0, :, 4:].abs().max() == 0


def test_traced_pseudo_tokens_do_not_move_the_end(model):
    tower = open_text_tower(model)
    vector = tower.embed_tokens(torch.tensor([[5]]))[0, 0]
    seen = trace(tower, IDS.masked_fill(IDS == 5, 999), override={999: vector})
    assert torch.allclose(seen.embedding, model.encode_text(IDS))


def test_mistakes_are_named(model, pixels):
    tower = open_image_tower(model)
    seen = trace(tower, pixels)
    with pytest.raises(UsageError, match=r"record=Record\('attn'"):
        seen.value(Site("attn", 0))
    with pytest.raises(UsageError, match="block 3 does not exist"):
        seen.value(Site("attn", 3))
    with pytest.raises(UsageError, match="one of every block"):
        seen.value("attn")
    with pytest.raises(UsageError, match="unknown site 'attention'"):
        seen.value("attention")
    with pytest.raises(UsageError, match="unknown site 'attention'"):
        Record("attention")
    with pytest.raises(UsageError, match="cannot take"):
        trace(tower, "a picture")
    with pytest.raises(UsageError, match="one number a sample"):
        seen.grad(lambda t: 3.0, "input")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pair(self.act(self.conv(x)))[0].mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x * 2, None


def test_capture_any_module(pixels):
    torch.manual_seed(1)
    net = Net().double().eval()
    hooks = len(net.conv._forward_hooks)
    seen = capture(net, pixels, ["conv", "pair"])
    assert torch.allclose(seen.output, net(pixels))
    # the record is what the convolution gave, not what the in-place ReLU left of it
    assert torch.allclose(seen.value("conv"), F.conv2d(pixels, net.conv.weight, net.conv.bias))
    conv, pair, x = seen.grad(lambda logits: logits[:, 3], ["conv", "pair", "input"])
    area = pair[0, 0].numel()
    assert torch.allclose(pair, (net.fc.weight[3] / area).view(1, 4, 1, 1).expand_as(pair))
    assert torch.allclose(conv, 2 * pair * (seen.value("conv") > 0))
    assert torch.allclose(x, torch.nn.grad.conv2d_input(x.shape, net.conv.weight, conv))
    assert len(net.conv._forward_hooks) == hooks
    with pytest.raises(UsageError, match="no submodule 'conv9'"):
        capture(net, pixels, ["conv9"])
    spare = copy.deepcopy(net)
    spare.unused = nn.Identity()
    with pytest.raises(UsageError, match="'unused' did not run"):
        capture(spare, pixels, ["unused"])


def test_functions_are_not_shadowed_by_their_modules():
    import binderclip.models as room

    for name in ("trace", "capture", "correlation", "load"):
        assert callable(getattr(room, name)), name
