"""Expert layers (p126) against dense references, and upcycling: what it keeps, and that a folder opens again."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models import MoEMLP, active_parameters, build, load, upcycle
from binderclip.models.padding import of_words

CONFIG = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "width": 32,
        "heads": 2,
        "layers": 2,
        "context_length": 16,
        "vocab_size": 8000,
        "hf_tokenizer_name": "binderclip",
    },
}


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))


def layer(experts: int = 4, top_k: int = 2, *, alike: bool = False, router_std: float = 2.0, **settings) -> MoEMLP:
    made = MoEMLP(mlp(), experts, top_k, router_std=router_std, generator=torch.Generator().manual_seed(1), **settings)
    if not alike:
        made.experts = nn.ModuleList([mlp(seed) for seed in range(experts)])
    return made


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build(CONFIG, tokenizer=load("small").tokenizer)


def by_tokens(made: MoEMLP, x: torch.Tensor, capacity: float | None) -> torch.Tensor:
    """One token and one choice at a time, first choices of all tokens first."""
    logits = x @ made.router.weight.T
    probabilities = logits.softmax(1)
    order = probabilities.argsort(1, descending=True)[:, : made.top_k]
    most = math.inf if capacity is None else math.ceil(capacity * made.top_k * len(x) / len(made.experts))
    taken = [0] * len(made.experts)
    rows = [torch.zeros(x.shape[1]) for _ in x]
    for choice in range(made.top_k):
        for t in range(len(x)):
            e = int(order[t, choice])
            taken[e] += 1
            if taken[e] <= most:
                gate = probabilities[t, e]
                if made.normalize_gates:
                    gate = gate / probabilities[t, order[t]].sum()
                rows[t] = rows[t] + gate * made.experts[e](x[t])
    return torch.stack(rows)


@pytest.mark.parametrize("capacity", [None, 2.0, 0.6])
@pytest.mark.parametrize(("experts", "top_k", "normalize_gates"), [(4, 2, True), (5, 1, False), (3, 3, False)])
def test_the_mixture_is_that_of_single_tokens(capacity, experts, top_k, normalize_gates) -> None:
    made = layer(experts, top_k, capacity=capacity, normalize_gates=normalize_gates)
    x = torch.randn(17, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    found, expected = made(x), by_tokens(made, x, capacity)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    parameters = [x, *made.parameters()]
    mine, theirs = (torch.autograd.grad(y.square().sum(), parameters, allow_unused=True) for y in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-5)
    assert made.last is not None
    assert (float(made.last.dropped) > 0) is (capacity == 0.6)


def test_all_experts_without_a_limit_are_the_dense_mixture() -> None:
    made = layer(3, 3, capacity=None)
    x = torch.randn(2, 5, 6)
    weights = (x @ made.router.weight.T).softmax(-1)
    expected = sum(weights[..., e, None] * made.experts[e](x) for e in range(3))
    torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-6)


def test_equal_experts_are_the_mlp_whatever_the_router_says() -> None:
    x = torch.randn(3, 7, 6)
    for router_std in (0.0, 0.02, 5.0):
        made = layer(4, 2, alike=True, router_std=router_std, capacity=2.0)  # 4 / 2: nobody can be left over
        torch.testing.assert_close(made(x), mlp()(x), rtol=1e-5, atol=1e-6)
    unscaled = layer(4, 2, alike=True, normalize_gates=False)
    assert float((unscaled(x) - mlp()(x)).detach().abs().max()) > 1e-2


def test_evaluation_drops_nothing_and_does_not_depend_on_the_batch() -> None:
    made = layer(capacity=0.5).eval()
    x = torch.randn(9, 6)
    alone = torch.stack([made(row[None])[0] for row in x])
    torch.testing.assert_close(made(x), alone, rtol=1e-5, atol=1e-6)
    assert made.last is None
    assert float((made.train()(x) - alone).detach().abs().max()) > 1e-3


def test_padding_is_neither_routed_nor_counted() -> None:
    made = layer(capacity=0.7)
    x = torch.randn(2, 4, 6)
    words = torch.tensor([[True, True, False, False], [True, True, True, False]])
    with of_words(words):
        found = made(x)
    assert made.last is not None
    assert len(made.last.logits) == 5
    torch.testing.assert_close(found[words], made(x[words]))
    assert float(found[~words].detach().abs().max()) == 0.0


def test_load_and_entropy_are_those_of_first_choices() -> None:
    made = layer(2, 1, capacity=None)
    with torch.no_grad():
        made.router.weight.copy_(torch.tensor([[1.0, 0, 0, 0, 0, 0], [0.0] * 6]))
    x = torch.zeros(4, 6)
    x[:, 0] = torch.tensor([1.0, 1.0, 1.0, -1.0])
    made(x)
    assert made.last.load.tolist() == [0.75, 0.25]
    assert made.last.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2))
    copy.deepcopy(made)(x)


def test_an_upcycled_model_is_the_model_and_trains_apart(tiny) -> None:
    sparse = upcycle(tiny, experts=3, seed=4)
    images, texts = torch.rand(3, 3, 32, 32), ["a cat", "a red house", "two dogs"]
    torch.testing.assert_close(sparse.encode_image(images), tiny.encode_image(images), rtol=0, atol=2e-6)
    torch.testing.assert_close(sparse.encode_text(texts), tiny.encode_text(texts), rtol=0, atol=2e-6)
    torch.testing.assert_close(sparse.image_tower(images), tiny.image_tower(images), rtol=0, atol=2e-6)
    where = [name for name, module in sparse.backbone.named_modules() if isinstance(module, MoEMLP)]
    assert where == [
        "visual.transformer.resblocks.1.mlp",
        "visual.transformer.resblocks.3.mlp",
        "text.transformer.resblocks.1.mlp",
    ]
    assert not any(isinstance(module, MoEMLP) for module in tiny.backbone.modules())
    one = sum(p.numel() for p in tiny.backbone.visual.transformer.resblocks[0].mlp.parameters())
    active, total = active_parameters(sparse.backbone)
    assert total - sum(p.numel() for p in tiny.backbone.parameters()) == 3 * (2 * one + 3 * 32)
    assert total - active == 3 * one
    sparse.train()
    (sparse.encode_image(images) * sparse.encode_text(texts)).sum().backward()
    first, second = (sparse.backbone.visual.transformer.resblocks[1].mlp.experts[e][0].weight.grad for e in (0, 1))
    assert not torch.equal(first, second)
    router = sparse.backbone.visual.transformer.resblocks[1].mlp.router
    assert float(router.weight.grad.abs().max()) < 1e-6  # equal experts: no choice is better than another


def test_only_the_named_tower(tiny) -> None:
    sparse = upcycle(tiny, experts=2, towers=("text",))
    assert {n.split(".")[0] for n, m in sparse.backbone.named_modules() if isinstance(m, MoEMLP)} == {"text"}


def test_a_saved_model_opens_again(tiny, tmp_path: Path) -> None:
    sparse = upcycle(tiny, experts=3, every=2)
    with torch.no_grad():
        for parameter in sparse.backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    opened = load(sparse.save(tmp_path / "sparse"))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(opened.encode_image(images), sparse.encode_image(images))
    assert torch.equal(opened.encode_text("a cat"), sparse.encode_text("a cat"))
    assert "upcycled: 3 experts" in opened.card["history"][-1]
    config = tmp_path / "sparse" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"top_k": 2', '"top_k": 9'))
    with pytest.raises(CheckpointError, match=r"top_k in 1..experts, got 3 and 9"):
        load(tmp_path / "sparse")


def test_what_is_wrong_is_said(tiny) -> None:
    with pytest.raises(UsageError, match="got 1 and 2"):
        upcycle(tiny, experts=1)
    with pytest.raises(UsageError, match="every be at least 2"):
        upcycle(tiny, every=1)
    with pytest.raises(UsageError, match="towers must name image or text"):
        upcycle(tiny, towers=("vision",))
    with pytest.raises(UsageError, match="capacity must be positive"):
        upcycle(tiny, capacity=0.0)
    with pytest.raises(UsageError, match="has experts already"):
        upcycle(upcycle(tiny, experts=2))
    convolutional = load("small-b")
    with pytest.raises(NotSupported, match=r"the image tower .* has no transformer blocks"):
        upcycle(convolutional)
