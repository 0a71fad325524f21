"""Does one setting of masked updates of scheduled size edit pictures better than delta denoising does?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate import (
    LUSD,
    DistillationStep,
    ScoreDistillation,
    attention_edit_mask,
    distill_score,
)
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.data.digit_scenes import CELL, ScenesDenoiser, apart, digits, scenes, together

DDS, PLAIN, MASKED, SIZED, FULL = "DDS", "plain and pull", "with mask", "with filter and size", "LUSD"
PASTED = "mean difference added"
FITS, OUTSIDE = "pictures that fit the target's caption", "mean change of a pixel outside the true cell"
SPREAD, PLACE = "spread of update sizes over pictures", "attention of the target's word to the true cell"
PAIRS, EACH, STEPS, PULL, THRESHOLD, ASKED = ((0, 6), (5, 9), (9, 3)), 8, 80, 0.02, 0.1, 300
RATES = {DDS: 1.0, PLAIN: 0.1, MASKED: 0.1, SIZED: 0.1, FULL: 0.1}
"""Of three for each, that with the most pictures that fit in the pilot; the mask's is the plain direction's."""
COARSE = CELL.reshape(16, 16)[2::4, 2::4].flatten()  # the cell of each of 4 x 4 places that attend
SELF = F.normalize((COARSE[:, None] == COARSE).float(), p=1.0)[None]  # a place attends to all of its cell alike


def words_mask(step: DistillationStep, word: int) -> Tensor:
    """The paper's mask, by the denoiser's attention to the target's word, [B, 1, 16, 16]."""
    noisy = step.denoiser.schedule.add_noise(step.image, step.noise, step.t)
    places = step.denoiser.attention(noisy, step.t, word)[:, COARSE]  # type: ignore[operator]
    return torch.cat([attention_edit_mask([row[None, :, None]], [SELF], [0], (16, 16)) for row in places])


class DigitEdit:
    """One way to edit a batch, which keeps the states."""

    def __init__(self, name: str, pair: tuple[int, int]) -> None:
        self.name, (self.source, self.target) = name, pair
        self.states: list[Tensor] = []
        self.average: Tensor | None = None

    def mask(self, step: DistillationStep) -> Tensor:
        """Where the edit belongs."""
        self.states.append(step.image)
        if self.name in (FULL, MASKED):
            return words_mask(step, self.target)
        return torch.ones(len(step.image), 1, 1, 1)

    def update(self, step: DistillationStep, direction: Tensor) -> Tensor:
        """The direction of delta denoising; or masked and pulled as LUSD does it, with the size that it has."""
        mask = self.mask(step)
        self.average = mask if self.average is None else 0.9 * self.average + 0.1 * mask
        weight = step.i / (step.n - 1) * self.average + 1 - step.i / (step.n - 1)
        pulled = (1 - PULL) * weight * direction + PULL * (step.image - step.source)
        return direction if self.name == DDS else pulled

    def run(self, denoiser: ScenesDenoiser, x: Tensor, rate: float, g: torch.Generator) -> Tensor:
        """The edited pictures."""
        if self.name in (SIZED, FULL):
            method = LUSD(self.target, self.source, mask=self.mask, pull=PULL, threshold=THRESHOLD)
            return method.edit(denoiser, x, num_steps=STEPS, learning_rate=rate, generator=g)
        delta = ScoreDistillation(self.target, self.source, guidance_scale=1.0)
        direction = delta if self.name == DDS else LUSD(self.target, self.source).direction
        settings = {"num_steps": STEPS, "learning_rate": rate, "update": self.update, "generator": g}
        return distill_score(denoiser, x, direction, **settings)  # type: ignore[arg-type]

    def spread(self) -> float:
        """Coefficient of variation over pictures of the deviation of an update, mean over the steps."""
        sizes = torch.stack(self.states).diff(dim=0).flatten(2).std(2)
        return float((sizes.std(1) / sizes.mean(1)).mean())


def pasted(denoiser: ScenesDenoiser, x: Tensor, pair: tuple[int, int]) -> Tensor:
    """The difference of the classes' means added in the cell that the source's word most probably is about."""
    place = denoiser.attention(x, torch.full((len(x),), ASKED), pair[0]).argmax(1)
    cells = apart(x).clone()
    cells[torch.arange(len(x)), place] += denoiser.mean[pair[1]] - denoiser.mean[pair[0]]
    return together(cells)


@torch.no_grad()
def measure(seed: int, rates: Mapping[str, float] = RATES) -> list[Row]:
    """All rows of one seed: half of the digits make the denoiser, of the other come the pictures and the judge."""
    from sklearn.svm import SVC

    images, labels = digits()
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randperm(len(images), generator=g).chunk(2)
    denoiser = ScenesDenoiser(images[first], labels[first])
    judge = SVC().fit(images[second].numpy(), labels[second].numpy())
    values: dict[tuple[str, str], list[float]] = {}
    for pair in PAIRS:
        x, true = scenes(denoiser, images[second], labels[second], pair, EACH, g)
        t = torch.full((len(x),), ASKED)
        noisy = denoiser.schedule.add_noise(x, torch.randn(x.shape, generator=g), t)
        weight = denoiser.attention(noisy, t, pair[1])[torch.arange(EACH), true]
        values.setdefault((PLACE, "the denoiser"), []).append(float(weight.mean()))
        for name in (*rates, PASTED):
            way = DigitEdit(name, pair)
            edited = pasted(denoiser, x, pair) if name == PASTED else way.run(denoiser, x, rates[name], g)
            named = torch.as_tensor(judge.predict(apart(edited).flatten(0, 1).numpy())).reshape(-1, 4)
            fits = (named == pair[1]).any(1) & ~(named == pair[0]).any(1)
            moved = (apart(edited) - apart(x)).abs()[F.one_hot(true, 4) == 0]
            values.setdefault((FITS, name), []).append(float(fits.double().mean()))
            values.setdefault((OUTSIDE, name), []).append(float(moved.mean()))
            if name != PASTED:
                values.setdefault((SPREAD, name), []).append(way.spread())
    return [Row(metric, name, sum(parts) / len(parts)) for (metric, name), parts in values.items()]


METHODS = (*RATES, PASTED)
PANELS = dot_panels((FITS, METHODS), (OUTSIDE, METHODS), (SPREAD, tuple(RATES)), rotation=40)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), registered="691f1ecf39d0")
