"""Forward gradients (p067, arXiv 2306.06968) against backpropagation, linear algebra and closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import fit
from binderclip.optim import ForwardGradient, project_gradient

WIDTH, CLASSES, BATCH = 6, 3, 5


def make(seed: int = 0, **settings: Any) -> ForwardGradient:
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3)] + [nn.Linear(WIDTH, CLASSES)]
    heads = [nn.Linear(WIDTH, CLASSES) for _ in range(3)]
    return ForwardGradient(blocks, heads, **settings).double()


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, WIDTH, generator=g, dtype=torch.float64)
    return x, torch.randint(CLASSES, (BATCH,), generator=g)


def stepped(model: ForwardGradient) -> dict[str, Tensor]:
    model.zero_grad()
    model.step(batch(), backward=lambda part: part.backward())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def per_sample(model: ForwardGradient, k: int, where: str) -> dict[str, Tensor]:
    """Gradients (B, *shape) of block `k`, sample by sample, by backpropagation through what follows."""
    rows: dict[str, list[Tensor]] = {}
    for x, target in zip(*batch(), strict=True):
        with torch.no_grad():
            for block in model.blocks[:k]:
                x = block(x)
        x = model.blocks[k](x[None])
        for module in model.blocks[k + 1 :] if where == "global" else [model.heads[k]]:
            x = module(x)
        parameters = dict(model.blocks[k].named_parameters())
        found = torch.autograd.grad(F.cross_entropy(x, target[None]), list(parameters.values()))
        for name, gradient in zip(parameters, found, strict=True):
            rows.setdefault(name, []).append(gradient)
    return {name: torch.stack(r) for name, r in rows.items()}


def test_projection_is_the_orthogonal_one() -> None:
    g = torch.Generator().manual_seed(0)
    target, guess = (torch.randn(4, 3, 2, generator=g, dtype=torch.float64) for _ in range(2))
    found = project_gradient(target, guess).flatten(1)
    t, v = target.flatten(1), guess.flatten(1)
    for row in range(4):
        coefficient = torch.linalg.lstsq(v[row, :, None], t[row, :, None]).solution
        torch.testing.assert_close(found[row], v[row] * coefficient.squeeze())
    torch.testing.assert_close(found.square().sum(1) + (t - found).square().sum(1), t.square().sum(1))  # Pythagoras
    torch.testing.assert_close(project_gradient(target, 1e-150 * guess), project_gradient(target, -7 * guess))
    assert not project_gradient(target, torch.zeros_like(target)).any()


def test_span_of_enough_guesses_is_the_target() -> None:
    g = torch.Generator().manual_seed(0)
    target, guess = (torch.randn(6, 5, generator=g, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(project_gradient(target, guess, "span"), target)
    few = project_gradient(target[:2], guess[:2], "span")
    torch.testing.assert_close((target[:2] - few) @ guess[:2].T, torch.zeros(2, 2, dtype=torch.float64))


def test_random_guesses_are_unbiased_or_shrink_by_the_dimension() -> None:
    g = torch.Generator().manual_seed(0)
    n, d = 200_000, 5
    target, guess = torch.randn(d, generator=g), torch.randn(n, d, generator=g)
    rows = target.expand(n, d)
    for rule, factor in (("unbiased", 1.0), ("orthogonal", 1 / d)):
        found = project_gradient(rows, guess, rule)  # type: ignore[arg-type]
        error = found.std(0) / n**0.5
        assert ((found.mean(0) - factor * target).abs() < 4.5 * error).all()
    cosine = F.cosine_similarity(project_gradient(rows, guess), rows)
    assert cosine.min() >= 0
    assert abs(float(cosine.square().mean()) - 1 / d) < 0.002


@pytest.mark.parametrize("guess", ["local", "fixed-ntk"])
@pytest.mark.parametrize("rows", ["sample", "batch"])
def test_weight_space_projects_the_gradients_of_backpropagation(guess: str, rows: str) -> None:
    model = make(guess=guess, per_sample=rows == "sample")
    found = stepped(model)
    for k in range(3):
        true, local = (per_sample(model, k, where) for where in ("global", "local"))
        for name in true:
            if rows == "sample":
                expected = project_gradient(true[name], local[name]).mean(0)
            else:
                expected = project_gradient(true[name].mean(0, keepdim=True), local[name].mean(0, keepdim=True))[0]
            torch.testing.assert_close(found[f"blocks.{k}.{name}"], expected)


def test_activation_space_projects_at_the_blocks_output() -> None:
    model = make(space="activation")
    found = stepped(model)
    x, target = batch()
    for k in range(3):
        y = model.blocks[k](x)
        gradients = []
        for modules in (model.blocks[k + 1 :], [model.heads[k]]):
            z = y
            for module in modules:
                z = module(z)
            gradients.append(torch.autograd.grad(F.cross_entropy(z, target), y, retain_graph=True)[0])
        inner = (gradients[0] * gradients[1]).sum(1, keepdim=True) / gradients[1].square().sum(1, keepdim=True)
        for name, p in model.blocks[k].named_parameters():
            (expected,) = torch.autograd.grad(y, p, inner * gradients[1], retain_graph=True)
            torch.testing.assert_close(found[f"blocks.{k}.{name}"], expected)
        x = y.detach()


def test_heads_learn_by_their_own_loss_and_the_last_block_by_its_own() -> None:
    model = make()
    found = stepped(model)
    x, target = batch()
    F.cross_entropy(model(x), target).backward()
    last = {
        n: p.grad - found[n] for n, p in model.named_parameters() if n.startswith("blocks.3") and p.grad is not None
    }
    torch.testing.assert_close(last, {n: found[n] for n in last})  # the true gradient was added to an equal one
    head = torch.autograd.grad(F.cross_entropy(model.heads[0](model.blocks[0](x)), target), model.heads[0].weight)
    torch.testing.assert_close(found["heads.0.weight"], head[0])
    assert not [n for n in stepped(make(guess="ntk")) if n.startswith("heads")]


def test_local_for_both_is_purely_local_training() -> None:
    model = make(target="local")
    found = stepped(model)
    expected = per_sample(model, 1, "local")
    torch.testing.assert_close(found["blocks.1.0.weight"], expected["0.weight"].mean(0))


def test_a_guess_that_is_the_gradient_trains_as_backpropagation() -> None:
    """The only head is a copy of the last block, so local and global gradients are one."""
    torch.manual_seed(0)
    first, last = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU()), nn.Linear(8, CLASSES)
    head = nn.Linear(8, CLASSES)
    head.load_state_dict(last.state_dict())
    for space in ("weight", "activation"):
        model = ForwardGradient([first, last], [head], space=space).double()  # type: ignore[arg-type]
        found = stepped(model)
        x, target = batch()
        (expected,) = torch.autograd.grad(F.cross_entropy(model(x), target), first[0].weight)
        torch.testing.assert_close(found["blocks.0.0.weight"], expected)


def test_random_guesses_give_the_slope_times_the_guess() -> None:
    """<g, v> v, which is unbiased (above), with the v that the same seed draws."""
    for space in ("weight", "activation"):
        model = make(guess="random", normalise=False, per_sample=False, space=space)
        torch.manual_seed(7)
        found = stepped(model)
        torch.manual_seed(7)
        x, target = batch()
        for k in range(3):
            y = model.blocks[k](x)
            z = y
            for block in model.blocks[k + 1 :]:
                z = block(z)
            loss, parameters = F.cross_entropy(z, target), dict(model.blocks[k].named_parameters())
            if space == "weight":
                true = torch.autograd.grad(loss, list(parameters.values()))
                guesses = [torch.randn(1, *g.shape, dtype=g.dtype)[0] for g in true]
                expected = [(g * v).sum() * v for g, v in zip(true, guesses, strict=True)]
            else:
                guess = torch.randn_like(y)
                (true_at_y,) = torch.autograd.grad(loss, y, retain_graph=True)
                along = (true_at_y * guess).sum(1, keepdim=True) * guess
                expected = list(torch.autograd.grad(y, list(parameters.values()), along))
            torch.testing.assert_close([found[f"blocks.{k}.{name}"] for name in parameters], expected)
            x = y.detach()


def test_fit_trains_it_and_accumulates() -> None:
    whole, parts = make(), make()
    x, target = batch()
    pieces = [(x[:2], target[:2]), (x[2:4], target[2:4])]
    fit(whole.step, whole, [(x[:4], target[:4])], steps=1, optimizer="sgd", lr=0.1, schedule="constant")
    fit(parts.step, parts, pieces, steps=1, optimizer="sgd", lr=0.1, schedule="constant", accumulate=2)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict())
    with torch.no_grad():
        before = float(F.cross_entropy(whole(x), target))
    fit(whole.step, whole, [batch()], steps=25, optimizer="sgd", lr=0.3, schedule="constant")
    with torch.no_grad():
        assert float(F.cross_entropy(whole(x), target)) < 0.7 * before


@pytest.mark.parametrize(
    "settings",
    [
        {"space": "activation"},
        {"space": "weight"},
        {"space": "weight", "per_sample": False},
        {"space": "weight", "per_sample": False, "guess": "random", "normalise": False},
        {"space": "activation", "target": "local"},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_chunks_add_up_to_the_whole(settings: dict[str, Any]) -> None:
    """Five samples at once, or two, two and one, or one at a time."""
    found = []
    for chunk in (None, 2, 1, 7):
        torch.manual_seed(7)
        found.append(stepped(make(chunk=chunk, **settings)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_blocks_without_anything_that_learns_are_passed() -> None:
    """A block that only flattens, one that is frozen, and a frozen last block."""
    torch.manual_seed(0)
    for space in ("weight", "activation"):
        frozen, last = nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, CLASSES).requires_grad_(False)
        blocks = [nn.Flatten(), frozen, nn.Linear(6, 6), last]
        model = ForwardGradient(blocks, guess="random", space=space)  # type: ignore[arg-type]
        model.step((torch.randn(BATCH, 2, 3), batch()[1]), backward=Tensor.backward)
        assert [name for name, p in model.named_parameters() if p.grad is not None] == [
            "blocks.2.weight",
            "blocks.2.bias",
        ]


def test_noise_is_drawn_chunk_by_chunk() -> None:
    model = make(guess="random", normalise=False, space="activation", chunk=2)
    torch.manual_seed(7)
    found = stepped(model)
    torch.manual_seed(7)
    x, target = batch()
    for k in range(3):
        y = model.blocks[k](x)
        z = y
        for block in model.blocks[k + 1 :]:
            z = block(z)
        (true,) = torch.autograd.grad(F.cross_entropy(z, target), y, retain_graph=True)
        guess = torch.cat([torch.randn_like(part) for part in y.detach().split(2)])
        for name, p in model.blocks[k].named_parameters():
            (expected,) = torch.autograd.grad(y, p, (true * guess).sum(1, keepdim=True) * guess, retain_graph=True)
            torch.testing.assert_close(found[f"blocks.{k}.{name}"], expected)
        x = y.detach()


def test_nothing_but_one_block_is_kept_for_going_back() -> None:
    """The numbers kept for a backward pass do not grow with the depth, as those of backpropagation do."""

    def kept(depth: int, step: bool) -> int:
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh()) for _ in range(depth)] + [nn.Linear(8, 3)]
        model = ForwardGradient(blocks, [nn.Linear(8, 3) for _ in range(depth)], space="activation")
        x, target = torch.randn(64, 8), torch.zeros(64, dtype=torch.long)
        alive, peak = 0, 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, peak
                self.tensor = tensor
                alive += tensor.numel()
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda box: box.tensor):
            if step:
                model.step((x, target), backward=lambda part: part.backward())
            else:
                F.cross_entropy(model(x), target).backward()
        return peak

    assert kept(12, step=True) == kept(3, step=True) < kept(3, step=False)
    assert kept(12, step=False) > 3 * kept(3, step=False)


def test_attention_blocks_have_a_forward_mode() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)]
    last = nn.Sequential(nn.Flatten(), nn.Linear(24, CLASSES))
    head = nn.Sequential(nn.Flatten(), nn.Linear(24, CLASSES))
    model = ForwardGradient(
        [*layers, last], [head, nn.Sequential(nn.Flatten(), nn.Linear(24, CLASSES))], space="activation"
    )
    loss = model.step((torch.randn(2, 3, 8), torch.tensor([0, 1])), backward=lambda part: part.backward())
    assert loss.isfinite()
    assert layers[0].linear1.weight.grad is not None


def test_what_cannot_be_done_is_refused() -> None:
    block, head = nn.Linear(2, 2), nn.Linear(2, 2)
    for arguments, settings, message in (
        (([block],), {}, "two at least"),
        (([block, block], []), {}, "heads: one for every block"),
        (([block, block], [head]), {"guess": "local", "normalise": False}, "normalise"),
        (([block, block], [head]), {"guess": "noise"}, "guess must be one of"),
        (([block, block], [head]), {"space": "logits"}, "space must be one of"),
        (([block, block], [head]), {"target": "none"}, "target must be one of"),
        (([block, block], [head]), {"chunk": 0}, "chunk must be"),
        (([block, block], [head]), {"chunk": 2.5}, "chunk must be"),
    ):
        with pytest.raises(UsageError, match=message):
            ForwardGradient(*arguments, **settings)  # type: ignore[arg-type]
    ForwardGradient([block, block], guess="random")
    for layer in (nn.BatchNorm1d(2), nn.Dropout(0.5)):
        model = ForwardGradient([nn.Sequential(block, layer), nn.Linear(2, 2)], [head])
        with pytest.raises(NotSupported, match=r"blocks\.0\.1 is a"):
            model.step((torch.randn(3, 2), torch.zeros(3, dtype=torch.long)), backward=Tensor.backward)
    with pytest.raises(UsageError, match="as many inputs as targets"):
        make().step((torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.long)), backward=Tensor.backward)
    with pytest.raises(UsageError, match="one number a sample"):
        ForwardGradient([block, block], guess="random", loss=F.cross_entropy).step(
            (torch.randn(3, 2), torch.zeros(3, dtype=torch.long)), backward=Tensor.backward
        )
    with pytest.raises(UsageError, match="one shape"):
        project_gradient(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(UsageError, match="rule must be one of"):
        project_gradient(torch.zeros(2, 3), torch.zeros(2, 3), "mean")  # type: ignore[arg-type]
