"""Can proved gradient bounds of a Lipschitz network replace per-sample clipping?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from binderclip.models import BoundedInput, GroupSort2, SpectralLinear
from binderclip.privacy import (
    FlatClip,
    LipschitzOptimizer,
    LipschitzSequential,
    PoissonSampler,
    PrivateOptimizer,
    gradient_bounds,
    largest_ratios,
    noise_multiplier_for,
    per_sample_grads,
    tau_cross_entropy,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study

TRAIN, TEST, BATCH, EPOCHS, DELTA = 10_000, 2_000, 512, 3, 1e-5
RATE = BATCH / TRAIN
STEPS = EPOCHS * round(TRAIN / BATCH)
EPSILONS = (1.0, 4.0, 10.0)
CHECKED_STEPS = 334
"""Of each seed: in these single samples are held against the bounds."""
RADIUS, TAU, LIPSCHITZ_LR = 4.0, 8.0, 4e-3
CLIP, CLIPPED_LR = 0.3, 4e-2
LAYERS = ("first", "second", "last")


@lru_cache(maxsize=1)
def fashion() -> dict[str, tuple[Tensor, Tensor]]:
    """Flat pictures in [0, 1] and labels: what is trained on, 2,000 others to choose settings, and test pictures."""
    from binderclip.data import load_data

    found = {}
    for name, split, rows in (
        ("train", "train", slice(0, TRAIN)),
        ("choose", "train", slice(TRAIN, TRAIN + TEST)),
        ("test", "test", slice(0, TEST)),
    ):
        data = load_data("fashion-mnist", split=split)
        pixels = np.stack([np.asarray(data[i].image.convert("L")) for i in range(rows.start, rows.stop)])
        labels = torch.tensor([int(label) for label in data.labels[rows]])
        found[name] = (torch.from_numpy(pixels).flatten(1).float() / 255, labels)
    return found


def lipschitz_net() -> LipschitzSequential:
    """784-64-64-10 with GroupSort, orthogonal at the start."""
    return LipschitzSequential(
        BoundedInput(RADIUS), SpectralLinear(784, 64), GroupSort2(), SpectralLinear(64, 64), GroupSort2(),
        SpectralLinear(64, 10),
    )  # fmt: skip


def plain_net() -> nn.Sequential:
    """The same widths with ordinary layers."""
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def centred(x: Tensor) -> Tensor:
    """Pixels about one half: halves the norms, and touches no statistic of the data."""
    return x - 0.5


def scaled_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Losses of the Lipschitz network."""
    return tau_cross_entropy(model(x), y, TAU)


def plain_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Losses of the ordinary network."""
    return cross_entropy(model(x), y, reduction="none")


def train_lipschitz(
    epsilon: float,
    seed: int,
    *,
    steps: int = STEPS,
    watch: Callable[[LipschitzSequential, Tensor, Tensor], None] | None = None,
) -> tuple[LipschitzSequential, float]:
    """A trained network and the epsilon spent; `watch` sees each batch before its step."""
    x, y = fashion()["train"]
    torch.manual_seed(seed)
    model = lipschitz_net()
    optimizer = LipschitzOptimizer(
        torch.optim.Adam(model.parameters(), lr=LIPSCHITZ_LR), model,
        noise_multiplier=noise_multiplier_for(epsilon, DELTA, RATE, steps), expected_batch_size=BATCH,
        sample_rate=RATE, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    sampler = PoissonSampler(TRAIN, RATE, steps=steps, seed=seed)
    for number in range(steps):
        rows = sampler.batch(number)
        if watch is not None:
            watch(model, centred(x[rows]), y[rows])
        optimizer.zero_grad()
        scaled_loss(model, centred(x[rows]), y[rows]).sum().backward()
        optimizer.step()
    return model, optimizer.ledger.epsilon(DELTA)


def train_clipped(epsilon: float, seed: int) -> tuple[nn.Sequential, float]:
    """DP-SGD on the ordinary network, and the epsilon spent."""
    x, y = fashion()["train"]
    torch.manual_seed(seed)
    model = plain_net()
    optimizer = PrivateOptimizer(
        torch.optim.Adam(model.parameters(), lr=CLIPPED_LR), FlatClip(CLIP),
        noise_multiplier_for(epsilon, DELTA, RATE, STEPS), BATCH, model=model, sample_rate=RATE,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    sampler = PoissonSampler(TRAIN, RATE, steps=STEPS, seed=seed)
    for number in range(STEPS):
        rows = sampler.batch(number)
        optimizer.accumulate(plain_loss, centred(x[rows]), y[rows])
        optimizer.step()
    return model.eval(), optimizer.ledger.epsilon(DELTA)


def accuracy(model: nn.Module, part: str = "test") -> float:
    """Share of right answers."""
    x, y = fashion()[part]
    with torch.no_grad():
        return float((model(centred(x)).argmax(1) == y).float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*_bounds(seed), *_accuracies(seed), *_times(seed)]


def _norms(model: LipschitzSequential, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Per-sample gradients by vmap over the functional network, independent of the bounds."""
    held = {name: p.detach() for name, p in model.named_parameters()}

    def one(params: dict[str, Tensor], xi: Tensor, yi: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, params, (xi[None],))
        return cross_entropy(TAU * logits, yi[None]) / TAU

    return torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(held, x, y)


def _adversarial(model: LipschitzSequential, x: Tensor, y: Tensor) -> Tensor:
    """Inputs pushed outside the ball and along the ascent of their own gradient norms."""
    for _ in range(3):
        pushed = torch.func.grad(
            lambda z: sum((g.flatten(1).norm(dim=1).sum() for g in _norms(model, z, y).values()), z.new_zeros(()))
        )(x)
        x = x + pushed.sign()
    return x


def _bounds(seed: int) -> list[Row]:
    """The largest norm over bound of 32 samples a step, and now and then of inputs chosen against the bound."""
    worst = dict.fromkeys(LAYERS, 0.0)
    start: dict[str, float] = {}
    count = {"violations": 0, "steps": 0}

    def watch(model: LipschitzSequential, x: Tensor, y: Tensor) -> None:
        x, y = x[:32], y[:32]
        if count["steps"] % 25 == 0:
            x = torch.cat([x, _adversarial(model, x[:8], y[:8])])
            y = torch.cat([y, y[:8]])
        ratios = list(largest_ratios(_norms(model, x, y), gradient_bounds(model)).values())
        # float32 rounding is all the room there is
        count["violations"] += sum(ratio > 1 + 1e-5 for ratio in ratios)
        count["steps"] += 1
        for name, ratio in zip(LAYERS, ratios, strict=True):
            worst[name] = max(worst[name], ratio)
        if not start:
            start.update(zip(LAYERS, ratios, strict=True))

    train_lipschitz(4.0, seed, steps=CHECKED_STEPS, watch=watch)
    rows = [Row("checked steps", "Lipschitz", count["steps"]), Row("violations", "Lipschitz", count["violations"])]
    rows += [Row("largest norm / bound", "in 334 steps", worst[name], f"{name} layer") for name in LAYERS]
    return rows + [Row("largest norm / bound", "at the first step", start[name], f"{name} layer") for name in LAYERS]


def _accuracies(seed: int) -> list[Row]:
    rows = []
    for epsilon in EPSILONS:
        setting = f"epsilon {epsilon:g}"
        for name, train in (("Lipschitz", train_lipschitz), ("DP-SGD", train_clipped)):
            model, spent = train(epsilon, seed)
            rows += [Row("accuracy", name, accuracy(model), setting), Row("epsilon spent", name, spent, setting)]
    return rows


def _times(seed: int) -> list[Row]:
    """CPU time of a step on 512 samples, methods in turn."""
    x, y = (part[:BATCH] for part in fashion()["train"])
    x = centred(x)
    torch.manual_seed(seed)
    plain, ghost, bounded = plain_net(), plain_net(), lipschitz_net()
    inner = torch.optim.Adam(plain.parameters(), lr=0.0)
    private = PrivateOptimizer(
        torch.optim.Adam(ghost.parameters(), lr=0.0), FlatClip(CLIP), 1.0, BATCH, model=ghost, sample_rate=RATE
    )
    ours = LipschitzOptimizer(
        torch.optim.Adam(bounded.parameters(), lr=0.0), bounded, noise_multiplier=1.0, expected_batch_size=BATCH,
        sample_rate=RATE,
    )  # fmt: skip

    def by_vmap() -> None:
        grads = per_sample_grads(plain, plain_loss, x, y, method="vmap")
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
        scales = (CLIP / norms).clamp(max=1)
        for name, p in plain.named_parameters():
            total = torch.einsum("b,b...->...", scales, grads[name])
            p.grad = (total + CLIP * torch.randn_like(total)) / BATCH
        inner.step()

    def by_books() -> None:
        private.accumulate(plain_loss, x, y)
        private.step()

    def by_bounds() -> None:
        ours.zero_grad()
        scaled_loss(bounded, x, y).sum().backward()
        ours.step()

    steps = {"per-sample clipping by vmap": by_vmap, "clipping by book-keeping": by_books, "Lipschitz": by_bounds}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(9):
        for name, step in steps.items():
            before = time.process_time()
            step()
            if number >= 2:
                taken[name].append(1000 * (time.process_time() - before))
    return [Row("step (CPU ms)", name, statistics.median(values), "batch 512") for name, values in taken.items()]


def _never_violated(table: Table) -> tuple[bool, str]:
    steps, found = table.values("checked steps", "Lipschitz").sum(), table.values("violations", "Lipschitz").sum()
    worst = max(table.values("largest norm / bound", "in 334 steps", f"{n} layer").max() for n in LAYERS)
    return (
        found == 0 and steps >= 1000,
        f"{found:.0f} violations in {steps:.0f} steps; largest norm / bound {worst:.3f}",
    )


def _tight(table: Table) -> tuple[bool, str]:
    first = table.values("largest norm / bound", "at the first step", "last layer")
    return bool((first > 0.3).all()), f"{first.min():.2f} to {first.max():.2f} at the orthogonal start"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against epsilon, tightness of the bounds, and the price of a step."""
    axes = figure.subplots(1, 3)
    for number, name in enumerate(("Lipschitz", "DP-SGD")):
        values = np.stack([table.values("accuracy", name, f"epsilon {e:g}") for e in EPSILONS])
        axes[0].errorbar(
            EPSILONS, values.mean(1), values.std(1), marker="o", markersize=4, capsize=3, label=name, color=f"C{number}"
        )
    axes[0].set(title="Fashion-MNIST, 3 epochs", xlabel="epsilon", ylabel="test accuracy", xscale="log")
    axes[0].set_xticks(EPSILONS, [f"{e:g}" for e in EPSILONS])
    axes[0].minorticks_off()
    axes[0].legend()
    for number, method in enumerate(("at the first step", "in 334 steps")):
        ratios = [table.values("largest norm / bound", method, f"{n} layer").max() for n in LAYERS]
        axes[1].bar(np.arange(3) + 0.4 * number - 0.2, ratios, 0.38, label=method, color=f"C{number + 2}")
    axes[1].axhline(1, color="black", linewidth=1)
    axes[1].set_xticks(range(3), [f"{n} layer" for n in LAYERS])
    axes[1].set(title="Largest gradient norm over bound", ylim=(0, 1.45))
    axes[1].legend(loc="upper left")
    names = table.names("method", "step (CPU ms)")
    times = [table.mean("step (CPU ms)", name, "batch 512") for name in names]
    axes[2].barh(range(3), times, color="C4")
    axes[2].set_yticks(range(3), ["vmap", "book-keeping", "Lipschitz"])
    axes[2].set(title="One step of 512 samples", xlabel="CPU ms")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), null=None, registered="3382f96fe54c")
