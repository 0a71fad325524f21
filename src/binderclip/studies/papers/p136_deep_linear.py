"""Does a deep linear network that interpolates noisy data predict as well as the shallow one?"""

from __future__ import annotations

import torch

from binderclip.landscape import BenignOverfittingReport, DeepLinearNet, benign_overfitting_report
from binderclip.studies.harness import Figure, Row, Table, declared_study

INPUTS, HEAD, TAIL, SAMPLES, WIDTH = 400, 5, 0.01, 40, 50
DEPTHS = (2, 3, 5)
SMALL, MIDDLE, LARGE = 1e-3, 0.1, 1.0
ROUND = 44
"""Inputs of the covariance without a tail: just above the samples."""
SHALLOW, RANDOM, NONE = "minimum norm", "large start", "predicting zero"
RISK, SPAN, MOVED = "excess risk", "distance from the minimum norm on the span", "what moved off the span"
SPIKED, FLAT, CLEAN = "spiked", "flat", "without noise"


def report(seed: int, eigenvalues: torch.Tensor, depth: int, alpha: float) -> tuple[BenignOverfittingReport, float]:
    """One draw of data, interpolated; and how far the first layer moved off the span of the data, by its length."""
    generator = torch.Generator().manual_seed(seed)
    shape = (SAMPLES, len(eigenvalues))
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64) * eigenvalues.sqrt()
    noise = torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64)
    truth = torch.zeros(1, len(eigenvalues), dtype=torch.float64)
    truth[0, :HEAD] = 1
    net = DeepLinearNet(len(eigenvalues), depth=depth, width=WIDTH, alpha=alpha, seed=seed)
    first = net.layers[0].detach().clone()
    outcome = benign_overfitting_report(net, inputs, noise, truth, eigenvalues, tolerance=1e-12)
    moved = net.layers[0].detach() - first
    off_span = moved - moved @ torch.linalg.pinv(inputs) @ inputs
    return outcome, float(off_span.norm() / net.layers[0].detach().norm())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    spiked = torch.full((INPUTS,), TAIL, dtype=torch.float64)
    spiked[:HEAD] = 1
    rows = []
    runs = [(f"depth {depth}", depth, SMALL) for depth in DEPTHS]
    for name, depth, alpha in [*runs, ("depth 3, middle start", 3, MIDDLE), (RANDOM, 3, LARGE)]:
        outcome, moved = report(seed, spiked, depth, alpha)
        rows += [
            Row(RISK, name, outcome.risk, SPIKED),
            Row(RISK, name, outcome.bias, CLEAN),
            Row(SPAN, name, outcome.span_error),
            Row(MOVED, name, moved),
        ]
    rows += [
        Row(RISK, SHALLOW, outcome.shallow_risk, SPIKED),
        Row(RISK, SHALLOW, outcome.shallow_bias, CLEAN),
        Row(RISK, NONE, outcome.null_risk, SPIKED),
    ]
    flat, _ = report(seed, torch.ones(ROUND, dtype=torch.float64), 2, SMALL)
    rows += [Row(RISK, "depth 2", flat.risk, FLAT), Row(RISK, SHALLOW, flat.shallow_risk, FLAT)]
    return [*rows, Row(RISK, NONE, flat.null_risk, FLAT)]


def _on_the_span(table: Table) -> tuple[bool, str]:
    """Whether every interpolant is the minimum-norm map on the span of the inputs, and no first layer moved off it."""
    names = [*(f"depth {depth}" for depth in DEPTHS), "depth 3, middle start", RANDOM]
    span, moved = (max(table.values(metric, name).max() for name in names) for metric in (SPAN, MOVED))
    return max(span, moved) < 1e-5, f"largest distance on the span {span:.1e}, largest move off it {moved:.1e}"


def draw(table: Table, figure: Figure) -> None:
    """The risk of each map."""
    axes = figure.subplots()
    names = [*(f"depth {depth}" for depth in DEPTHS), "depth 3, middle start", RANDOM, SHALLOW, NONE]
    for place, name in enumerate(names):
        values = table.values(RISK, name, SPIKED)
        axes.plot(values, [place] * len(values), "o", alpha=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.set(title="Risk of interpolating noise", xlabel="excess risk (squared units of the target)", xscale="log")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 38), registered="7128c59ec261")
