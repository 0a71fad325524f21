"""Are gradients of small local losses better guesses for forward gradients than noise?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.optim import ForwardGradient, project_gradient
from binderclip.studies.harness import Row, Table, accuracy, declared_study, dot_panels, one_thread, random_rows

BACKPROP, LOCAL, NOISE, PURE = "backpropagation", "local guess", "noise", "local losses alone"
RATES = {BACKPROP: 0.03, LOCAL: 0.03, NOISE: 0.1, PURE: 0.1}
"""Learning rates: for each method the best one on the pilot's seeds."""
SETTINGS: dict[str, dict[str, Any]] = {
    LOCAL: {"guess": "local"}, NOISE: {"guess": "random"}, PURE: {"guess": "local", "target": "local"}
}  # fmt: skip
HIDDEN, WIDTH, STEPS, BATCH, TEST, EVERY = 3, 256, 200, 32, 597, 50
ACCURACY, COSINE, ERROR = "test accuracy", "cosine with the gradient", "largest error of an identity"
SLOPES, TRUE_GUESS, BASIS = "slopes against <g, v>", "the gradient as its own guess", "a whole basis of guesses"


def _digits() -> tuple[Tensor, Tensor]:
    """Pixels of mean 0 and deviation 1, 8 x 8 flat, and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pixels = torch.tensor(x, dtype=torch.float32)
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(y)


def _network(seed: int, **settings: Any) -> ForwardGradient:
    torch.manual_seed(seed)
    widths = [64, *[WIDTH] * (HIDDEN - 1)]
    blocks: list[nn.Module] = [nn.Sequential(nn.Linear(fed, WIDTH), nn.ReLU()) for fed in widths]
    heads = [nn.Linear(WIDTH, 10) for _ in range(HIDDEN)]
    return ForwardGradient([*blocks, nn.Linear(WIDTH, 10)], heads, space="activation", **settings)


def trained(method: str, seed: int, rate: float) -> tuple[float, float]:
    """Test accuracy, and the mean cosine of used and true gradients over hidden blocks and every 50th step."""
    x, y = _digits()
    model = _network(seed, **SETTINGS.get(method, {}))
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=g)
    train, test = order[TEST:], order[:TEST]
    batches = [train[torch.randint(len(train), (BATCH,), generator=g)] for _ in range(STEPS)]
    cosines, seen = [], []  # type: tuple[list[Tensor], list[Tensor]]

    def step(rows: Tensor, *, backward: Any) -> Tensor:
        if method == BACKPROP:
            loss = F.cross_entropy(model(x[rows]), y[rows])
            backward(loss)
            return loss.detach()
        return model.step((x[rows], y[rows]), backward=backward)

    def compare(_: list[Tensor]) -> None:
        rows = batches[len(seen)]
        if len(seen) % EVERY == 0 and method != BACKPROP:
            weights = [block[0].weight for block in list(model.blocks)[:-1]]  # type: ignore[index]
            true = torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), weights)
            cosines.extend(
                F.cosine_similarity(w.grad.flatten(), t.flatten(), 0) for w, t in zip(weights, true, strict=True)
            )
        seen.append(rows)

    sgd = {"name": "sgd", "momentum": 0.9}
    fit(step, model, batches, steps=STEPS, optimizer=sgd, lr=rate, schedule="constant", grad_transform=compare)
    return accuracy(model, x[test], y[test]), float(torch.stack(cosines).mean()) if cosines else 1.0


def identities(seed: int) -> list[Row]:
    """How far three things are from what they are by definition, in float64."""
    x, y = _digits()
    x, y = x[:8].double(), y[:8]
    model = _network(seed, guess="random", normalise=False).double()
    torch.manual_seed(seed)
    model.step((x, y), backward=lambda part: part.backward())
    torch.manual_seed(seed)
    here = model.blocks[0](x)
    guess, after = torch.randn_like(here), nn.Sequential(*list(model.blocks)[1:])(here)
    (true,) = torch.autograd.grad(F.cross_entropy(after, y), here, retain_graph=True)
    weight = model.blocks[0][0].weight  # type: ignore[index]
    (along,) = torch.autograd.grad(here, weight, project_gradient(true, guess, "unbiased"))
    basis = torch.linalg.qr(guess.T @ guess + torch.eye(WIDTH, dtype=guess.dtype)).Q  # (d, d), orthonormal
    parts = project_gradient(true[:1].expand(WIDTH, -1), basis).sum(0)
    # by the last one the mean over guesses of random direction is g / d
    errors = {SLOPES: weight.grad - along, TRUE_GUESS: project_gradient(true, true) - true, BASIS: parts - true[0]}
    return [Row(ERROR, name, float(value.abs().max())) for name, value in errors.items()]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = identities(seed)
    with one_thread():
        for method, rate in RATES.items():
            reached, cosine = trained(method, seed, rate)
            rows += [Row(ACCURACY, method, reached), Row(COSINE, method, cosine)]
    return rows


def _holds(table: Table) -> tuple[bool, str]:
    worst = {name: float(table.values(ERROR, name).max()) for name in (SLOPES, TRUE_GUESS, BASIS)}
    return max(worst.values()) < 1e-12, "; ".join(f"{name}: {value:.0e}" for name, value in worst.items())


def null(seed: int) -> list[Row]:
    """Random accuracies and cosines, and identities that miss."""
    return [Row(ERROR, n, 0.5) for n in (SLOPES, TRUE_GUESS, BASIS)] + random_rows(STUDY.criteria, seed)


PANELS = ((ACCURACY, tuple(RATES)), (COSINE, (LOCAL, NOISE, PURE)))
STUDY = declared_study(
    __name__, measure, draw=dot_panels(*PANELS, rotation=30), seeds=range(10, 18), null=null, registered="b76884df73d0"
)
