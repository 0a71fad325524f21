"""Does a polynomial bring attention down from the fourth power of a picture's side, and where does it stop working?"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from binderclip.evaluate import attention_norm_criterion, taylor_degree
from binderclip.models import NextScaleGenerator, monomial_features, polynomial_attention
from binderclip.studies.harness import Figure, Row, Table, declared_study, random_rows

DIM, DEGREE, TOKENS, DRAWS = 3, 4, 256, 16
BOUNDS = (0.25, 0.5, 1.0, 2.0, 4.0)
EXACT, POLYNOMIAL, RANDOM = "exact", "polynomial", "random features"
SLOPE, SLOPE_ALL = "exponent of the side in attention's operations", "exponent of the side in all products of matrices"
WRONG, ERROR = "largest error of an output", "error over its bound"
RANK = "features for an error of 1e-3"
SIDES = (8, 16, 32, 64)
REMAINDER, PRODUCTS = "entries before normalisation", "products of features"


def inputs(bound: float, g: torch.Generator) -> list[Tensor]:
    """Queries, keys and values, uniform in [-R, R], in float64."""
    return [bound * (2 * torch.rand(TOKENS, DIM, generator=g, dtype=torch.float64) - 1) for _ in range(3)]


def random_features(q: Tensor, k: Tensor, v: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Attention by positive random features of exp (Performer), as many as the polynomial has."""
    w = torch.randn(q.shape[1], count, generator=g, dtype=q.dtype)
    u1, u2 = ((x / DIM**0.5 @ w - x.square().sum(1, keepdim=True) / (2 * DIM)).exp() for x in (q, k))
    weighted = u1 @ (u2.T @ torch.cat([v, torch.ones_like(v[:, :1])], 1))
    return weighted[:, :-1] / weighted[:, -1:]


@lru_cache(maxsize=1)
def slopes() -> list[Row]:
    """Of a whole generation, as a flop counter sees it: by least squares on logarithms, over all sides."""
    rows = []
    for name in (EXACT, POLYNOMIAL):
        counted: dict[str, list[float]] = {SLOPE: [], SLOPE_ALL: []}
        for side in SIDES:
            scales = [2**i for i in range(int(math.log2(side)) + 1)]
            # without values, and without fused attention, of which the counter knows nothing
            with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                NextScaleGenerator(scales, 64, 8, DIM, 1, 1, attention=name, degree=DEGREE).generate(1)
            counted[SLOPE].append(counter.get_flop_counts()["Global"][torch.ops.aten.bmm])
            counted[SLOPE_ALL].append(counter.get_total_flops())
        rows += [Row(m, name, float(np.polyfit(np.log(SIDES), np.log(flops), 1)[0])) for m, flops in counted.items()]
    return rows


def measure(seed: int) -> list[Row]:
    """All rows of one seed: errors are the largest over `DRAWS` draws."""
    g, rows = torch.Generator().manual_seed(seed), list(slopes())
    worst: dict[tuple[str, str, str], float] = {}

    def note(metric: str, method: str, setting: str, value: float) -> None:
        worst[metric, method, setting] = max(worst.get((metric, method, setting), 0.0), value)

    for bound in BOUNDS:
        setting = f"R = {bound:g}"
        for _ in range(DRAWS):
            q, k, v = inputs(bound, g)
            exact = F.scaled_dot_product_attention(q, k, v, scale=1 / DIM)
            near = polynomial_attention(q, k, v, DEGREE)
            features = [monomial_features(x, DEGREE) for x in (q, k)]
            beside = random_features(q, k, v, features[0].shape[1], g)
            note(WRONG, POLYNOMIAL, setting, float((near - exact).abs().max()))
            note(WRONG, RANDOM, setting, float((beside - exact).abs().max()))
            products = q @ k.T / DIM
            terms = torch.stack([products**j / math.factorial(j) for j in range(DEGREE + 1)]).sum(0)
            largest = float(products.abs().max())
            # Lagrange's remainder, with exp(B) for the point between
            allowed = largest ** (DEGREE + 1) * math.exp(largest) / math.factorial(DEGREE + 1)
            note(ERROR, REMAINDER, setting, float((terms - products.exp()).abs().max()) / allowed)
            apart = float((features[0] @ features[1].T - terms).abs().max())
            note(ERROR, PRODUCTS, setting, apart / (1e-12 * float(terms.abs().max())))
        found = attention_norm_criterion({"layer": (q, k)}, tolerance=1e-3, scale=1 / DIM)["layer"]
        assert found.degree == taylor_degree(found.product, 1e-3)
        rows.append(Row(RANK, POLYNOMIAL, found.rank, setting))
    return rows + [Row(metric, method, value, setting) for (metric, method, setting), value in worst.items()]


def _holds(table: Table) -> tuple[bool, str]:
    exact, polynomial = (float(table.values(SLOPE, name).mean()) for name in (EXACT, POLYNOMIAL))
    most = max(float(table.values(ERROR, name, f"R = {r:g}").max()) for name in (REMAINDER, PRODUCTS) for r in BOUNDS)
    text = f"exponents {exact:.2f} and {polynomial:.2f}; errors at most {most:.2f} of their bounds"
    return exact > 3.7 and polynomial < 2.3 and most <= 1, text


def null(seed: int) -> list[Row]:
    """Random errors and exponents."""
    rows = [Row(ERROR, name, 2.0, f"R = {bound:g}") for name in (REMAINDER, PRODUCTS) for bound in BOUNDS]
    return rows + [Row(SLOPE, name, 3.0) for name in (EXACT, POLYNOMIAL)] + random_rows(STUDY.criteria, seed)


def draw(table: Table, figure: Figure) -> None:
    """Errors and features by the size of the entries."""
    left, right = figure.subplots(1, 2)
    for number, name in enumerate((POLYNOMIAL, RANDOM)):
        means = [table.mean(WRONG, name, f"R = {bound:g}") for bound in BOUNDS]
        left.plot(BOUNDS, means, "o-", markersize=4, color=f"C{number}", label=name)
    left.axvline(math.log(TOKENS) ** 0.5, color="C3", linewidth=1, label="sqrt(log n)")
    left.set(xscale="log", yscale="log", xlabel="largest entry R", ylabel=WRONG)
    left.legend(fontsize=8)
    right.plot(BOUNDS, [table.mean(RANK, POLYNOMIAL, f"R = {bound:g}") for bound in BOUNDS], "o-", markersize=4)
    right.axhline(TOKENS, color="0.5", linestyle=":", linewidth=1)
    right.set(xscale="log", yscale="log", xlabel="largest entry R", ylabel=f"{RANK} (dotted: tokens)")
    left.set_xticks(BOUNDS, [f"{bound:g}" for bound in BOUNDS])
    right.set_xticks(BOUNDS, [f"{bound:g}" for bound in BOUNDS])


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 38), null=null, registered="c4812a61084c")
