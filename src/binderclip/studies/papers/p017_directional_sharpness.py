"""Is the loss of a transformer more curved along SGD's steps than along Adam's, and does coordinate clipping help?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.landscape import Shadow, compare_directions, loss_along
from binderclip.optim import CoordinateClip
from binderclip.studies.harness import Figure, Row, Table, declared_study

RATES = (3.2e-3, 1.8e-2, 0.1)
"""A tenth of those around the best one of the first measurement, which had no momentum."""
STEPS, BATCH, FRACTION, ADAM_RATE, MOMENTUM = 1500, 32, 0.1, 3e-3, 0.9
WIDTH, LAYERS, WORDS, CONTEXT = 32, 2, 500, 10
CURVATURE_BATCH = 256
CHECKPOINTS = (1, 250, 500, 750, 1000, 1250, 1500)
BEST = "training loss at the pilot's best learning rate"
PILOT_LOSSES = {"SGD": (3.20749, 2.83623, 2.83733), "SGD clip": (3.48089, 3.04043, 3.07156)}
"""Training loss over the last 20 steps at the three rates, mean of the seeds that chose between them: figures of an
earlier run, and no rows of this one."""
SGD: dict[str, float | None] = {"SGD": None, "SGD clip": FRACTION}
LINE = np.logspace(-4, 1, 11).tolist()
Make = Callable[[list[Tensor]], torch.optim.Optimizer]
FOLLOWED: dict[str, tuple[Make, float | None]] = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=1.0, momentum=MOMENTUM), None),
    "SGD clip": (lambda p: torch.optim.SGD(p, lr=1.0, momentum=MOMENTUM), FRACTION),
    "Adam": (lambda p: torch.optim.Adam(p, lr=1.0), None),
    "Adam clip": (lambda p: torch.optim.Adam(p, lr=1.0), 0.5),
}


class WordModel(nn.Module):
    """A small causal transformer that predicts the next word of a caption."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.places = nn.Embedding(WORDS + 3, WIDTH), nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layers = [
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        ]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, WORDS + 3)
        nn.init.normal_(self.words.weight, std=0.02)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        """Mean cross-entropy of every next word; padding does not count."""
        x = self.words(ids[:, :-1]) + self.places
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        logits = self.out(self.norm(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


@lru_cache(maxsize=1)
def _captions() -> Tensor:
    """Captions of the bundled packs as ids: 0 padding, 1 start, 2 a rare word, then words by frequency."""
    from binderclip.data import load_packs

    texts = [re.findall(r"[a-z]+", caption.lower()) for caption in load_packs(split="train").captions]
    counts = Counter(word for text in texts for word in text)
    place = {word: rank + 3 for rank, (word, _) in enumerate(counts.most_common(WORDS))}
    rows = [[1, *(place.get(word, 2) for word in text)][: CONTEXT + 1] for text in sorted(texts) if text]
    return torch.tensor([row + [0] * (CONTEXT + 1 - len(row)) for row in rows])


def train(seed: int, make: Make, clip: float | None, visit: Callable[[int, WordModel], None] | None = None) -> float:
    """Mean training loss of the last 20 steps; inf once it is not finite. `visit` is called before every step."""
    ids, g = _captions(), torch.Generator().manual_seed(seed)
    net = WordModel(seed)
    optimizer = make(list(net.parameters()))
    if clip is not None:
        CoordinateClip(clip, granularity="global", nonfinite="propagate").attach(optimizer)
    losses = []
    for step in range(1, STEPS + 1):
        loss = net(ids[torch.randint(len(ids), (BATCH,), generator=g)])
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return math.inf
        optimizer.zero_grad()
        loss.backward()
        if visit is not None:
            visit(step, net)
        optimizer.step()
    return float(np.mean(losses[-20:]))


def _sgd(seed: int, rate: float, clip: float | None) -> float:
    """Training loss of SGD; one that diverged counts as uniform guessing, which is worse than any that trained."""
    return min(train(seed, partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM), clip), math.log(WORDS + 3))


def _chosen_rate(method: str) -> float:
    return RATES[int(np.argmin(PILOT_LOSSES[method]))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = _along_adam(seed)
    for method, clip in SGD.items():
        rows.append(Row(BEST, method, _sgd(seed, _chosen_rate(method), clip)))
    return rows


def _along_adam(seed: int) -> list[Row]:
    """Train with Adam; at the checkpoints, what each optimizer would do next and how the loss looks along it."""
    rows: list[Row] = []
    ids = _captions()
    fixed = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(500 + seed))[:CURVATURE_BATCH]]
    shadows: dict[str, Shadow] = {}

    def visit(step: int, net: WordModel) -> None:
        params = list(net.parameters())
        if step == 1:
            for name, (make, clip) in FOLLOWED.items():
                shadows[name] = Shadow(
                    params, make, None if clip is None else CoordinateClip(clip, granularity="global")
                )
        updates = {name: shadow.observe() for name, shadow in shadows.items()}
        if step not in CHECKPOINTS:
            return
        for name, found in compare_directions(lambda: net(fixed), params, updates).items():
            where = f"step {step}"
            rows.append(Row("directional sharpness", name, found.sharpness, where))
            rows.append(Row("correlation of the update with the descent direction", name, -found.correlation, where))
            line = loss_along(lambda: net(fixed), params, updates[name], LINE)
            rows.append(Row("best decrease of the loss along the update", name, line.best[1], where))

    final = train(seed, lambda p: torch.optim.Adam(p, lr=ADAM_RATE), None, visit)
    rows.append(Row(BEST, f"Adam (at {ADAM_RATE:g})", final))
    return rows


def _pairs(table: Table, metric: str = "directional sharpness") -> dict[str, np.ndarray]:
    """Checkpoint by seed, for every optimizer."""
    return {name: np.stack([table.values(metric, name, f"step {step}") for step in CHECKPOINTS]) for name in FOLLOWED}


def draw(table: Table, figure: Figure) -> None:
    """Sharpness along the trajectory, the best local decrease, and the loss against the learning rate."""
    axes = figure.subplots(1, 3)
    panels = (("directional sharpness", "u'Hu / |u|^2"), ("best decrease of the loss along the update", "loss"))
    for ax, (metric, label) in zip(axes, panels, strict=False):
        for number, (name, values) in enumerate(_pairs(table, metric).items()):
            ax.plot(CHECKPOINTS, np.median(values, 1), marker="o", markersize=4, color=f"C{number}", label=name)
        ax.set(title=metric.split(" of the")[0].capitalize(), xlabel="step of Adam's trajectory", ylabel=label)
    axes[0].set_yscale("symlog", linthresh=0.1)
    axes[1].set_yscale("symlog", linthresh=0.001)
    axes[1].legend()
    for number, name in enumerate(SGD):
        axes[2].plot(RATES, PILOT_LOSSES[name], "o-", markersize=4, color=f"C{number}", label=f"{name}, pilot")
        measured = table.values(BEST, name)
        axes[2].plot([_chosen_rate(name)] * len(measured), measured, ".", color=f"C{number}", alpha=0.6)
    axes[2].set_xscale("log")
    axes[2].set(title=f"Training loss after {STEPS} steps", xlabel="learning rate", ylabel="loss")
    axes[2].legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="5cd2977cbafc")
