"""Mask explanations beside the model's own passes, and the shearlet transform beside its formula."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.explain import ShearletX
from binderclip.explain.engine.observed import Observer
from binderclip.models import load
from binderclip.studies.harness.threads import one_thread
from binderclip.vision import ShearletTransform

SAMPLES, STEPS, SIDE = 16, 3, 128


def run() -> list[Row]:
    """Analysis with its gradient, synthesis with its gradient, and ShearletX on the bundled model, one thread."""
    with one_thread():
        return [*transforms(), step()]


def transforms() -> list[Row]:
    """Forward and backward of both directions, 16 pictures, 49 filters."""
    transform, size = ShearletTransform(), (SIDE, SIDE)
    images = torch.rand(SAMPLES, *size, requires_grad=True)
    coefficients = transform.analysis(images).detach().requires_grad_()
    filters = transform.filters(size).float()

    def analysis_formula(x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x)[:, None] * filters).real

    def synthesis_formula(c: Tensor) -> Tensor:
        return torch.fft.ifft2((torch.fft.fft2(c) * filters).sum(dim=1)).real

    rows = []
    for name, ours, theirs, given in (
        ("analysis", transform.analysis, analysis_formula, images),
        ("synthesis", transform.synthesis, synthesis_formula, coefficients),
    ):
        if float((ours(given) - theirs(given)).detach().abs().max()) > 1e-4:
            raise RuntimeError(f"{name}: the two sides differ")
        rows.append(
            compare(
                f"shearlet {name} and its gradient, {SAMPLES} pictures of {SIDE} px",
                lambda f=ours, x=given: torch.autograd.grad(f(x).square().sum(), x),  # type: ignore[misc]
                lambda f=theirs, x=given: torch.autograd.grad(f(x).square().sum(), x),  # type: ignore[misc]
                repeats=5,
                goal="at least 2x",
                target=2,
                peer_name="complex transforms of full width",
            )
        )
    return rows


def step() -> Row:
    """Steps of ShearletX against as many forwards and backwards of the same noisy pictures."""
    model = load("small").predictor(["cat", "dog", "car"])
    image = torch.rand(1, 3, SIDE, SIDE)
    noisy = image.expand(SAMPLES, -1, -1, -1)
    observer = Observer(model)

    def passes() -> None:
        with observer.ready():
            for _ in range(STEPS):
                seen = observer.run(noisy, [])
                seen.grads(seen.outputs.softmax(dim=1)[:, 0], ["input"])

    return compare(
        f"{STEPS} steps of ShearletX, {SAMPLES} samples, bundled model",
        lambda: ShearletX(steps=STEPS, samples=SAMPLES)(model, image, "cat"),
        passes,
        repeats=3,
        unit="s",
        speedup=False,
        goal="at most 2x",
        target=2,
        peer_name="the model's forward and backward alone",
        note="ours includes a forward of the clean image",
    )
