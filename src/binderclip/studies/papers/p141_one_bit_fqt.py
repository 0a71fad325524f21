"""Do gradients of one bit a value train better where few of them have four bits and the others none?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress import AGP, BinaryConv2d, BinaryLinear, gradient_variance, quantize_groups
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study
from binderclip.studies.protocols.training.spike import digits

STEPS, BATCH, RATE, BITS, GROUPS, DRAWS, SIGMA = 150, 32, 1e-3, 4, 64, 200, 1.5
ACCURACY, VARIANCE, RANGE = "test accuracy", "variance over squared norm", "share of the largest quarter of the ranges"
FULL, ONE, TOPK, BERNOULLI = "full precision", "1 bit", "AGP, top-k", "AGP, unbiased"
RANDOM, LATE, EQUAL, LOGNORMAL = "random quarter", "late gradients", "equal ranges", "log-normal ranges"
Quantizer = Callable[..., Tensor]


def per_sample(gradient: Tensor, dim: int = 0) -> Tensor:
    """The baseline: one bit, and each sample is a group for both products."""
    return quantize_groups(gradient, 1)


def random_quarter(gradient: Tensor, dim: int = 0) -> Tensor:
    """The rival: a random quarter of the groups in 4 bits, and the others dropped."""
    kept = torch.rand(gradient.shape[dim]).argsort() < max(gradient.shape[dim] // BITS, 1)
    shape = [-1 if axis == dim else 1 for axis in range(gradient.ndim)]
    return quantize_groups(gradient, BITS, dim) * kept.view(shape)


QUANTIZERS: dict[str, Quantizer | None] = {
    FULL: None,
    ONE: per_sample,
    TOPK: AGP(BITS),
    BERNOULLI: AGP(BITS, "bernoulli"),
    RANDOM: random_quarter,
}


def network(binary: bool, quantizer: Quantizer | None = None) -> nn.Sequential:
    """Two convolutions and a linear layer, binary or not, between two of full precision, on 8 x 8 pixels."""
    conv, linear = (
        (partial(BinaryConv2d, grad_quant=quantizer), partial(BinaryLinear, grad_quant=quantizer))
        if binary
        else (nn.Conv2d, nn.Linear)
    )
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardtanh()),
        *(conv(8, 16, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.Hardtanh()),
        *(conv(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardtanh(), nn.Flatten()),
        *(linear(256, 64), nn.BatchNorm1d(64), nn.Linear(64, 5)),
    )


def fine_tune(net: nn.Sequential, x: Tensor, y: Tensor, seed: int) -> nn.Sequential:
    """The network after `STEPS` of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    torch.manual_seed(seed)
    for batch in torch.randint(len(x), (STEPS, BATCH), generator=torch.Generator().manual_seed(seed)):
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return net.eval()


def gradient_rows(gradient: Tensor, setting: str) -> list[Row]:
    """Variances of one bit and of unbiased pruning, and how the ranges of the samples differ."""
    rows = gradient.flatten(1).double()
    ranges = (rows.amax(1) - rows.amin(1)).sort(descending=True).values
    size = float(rows.square().sum())
    quantizers: dict[str, Quantizer] = {ONE: partial(quantize_groups, bits=1), BERNOULLI: AGP(BITS, "bernoulli")}
    return [Row(RANGE, "samples", float(ranges[: len(ranges) // 4].sum() / ranges.sum()), setting)] + [
        Row(VARIANCE, name, float(gradient_variance(rows, each, DRAWS)) / size, setting)
        for name, each in quantizers.items()
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    x, y, test_x, test_y = digits()
    first, rest, held = y < 5, y >= 5, test_y >= 5
    torch.manual_seed(seed)
    pretrained = fine_tune(network(binary=False), x[first], y[first], seed).state_dict()
    uniform = torch.rand(GROUPS, 64) - 0.5
    rows = gradient_rows(uniform, EQUAL) + gradient_rows(uniform * (SIGMA * torch.randn(GROUPS, 1)).exp(), LOGNORMAL)
    for name, quantizer in QUANTIZERS.items():
        net = network(True, quantizer)
        net.load_state_dict(pretrained)
        fine_tune(net, x[rest], y[rest] - 5, seed + 1000)
        rows.append(Row(ACCURACY, name, accuracy(net, test_x[held], test_y[held] - 5)))
        if name == FULL:  # what arrives at the second binary convolution and its norm
            inner = net[:9](x[rest][:GROUPS])
            loss = F.cross_entropy(net[9:](inner), y[rest][:GROUPS] - 5, reduction="sum")
            rows += gradient_rows(torch.autograd.grad(loss, inner)[0], LATE)
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Accuracies, and variances where the ranges are equal and where they are not."""
    left, right = figure.subplots(1, 2)
    for ax, names, metric in ((left, list(QUANTIZERS), ACCURACY), (right, [EQUAL, LOGNORMAL, LATE], VARIANCE)):
        for shift, method in ((0.0, None),) if metric == ACCURACY else ((-0.15, ONE), (0.15, BERNOULLI)):
            for place, name in enumerate(names):
                values = table.values(metric, name) if method is None else table.values(metric, method, name)
                color, label = ("C0" if shift <= 0 else "C1"), (method if place == 0 else None)
                ax.plot([place + shift] * len(values), values, "o", markersize=4, alpha=0.5, color=color, label=label)
        ax.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names], fontsize=7)
        ax.set_ylabel(metric)
    right.set_yscale("log")
    right.legend(fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="fbd1821a5436")
