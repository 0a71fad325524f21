"""Gradient clipping against torch's, timm's and pytorch-optimizer's, on tensors with the shapes of a CLIP."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, compare, timed
from binderclip.optim import AGC, AdaGC, AutoClip, Clip, NormClip, Scheduled, ZClip

FAR = 1e12
"""A limit that nothing reaches."""


def shapes(width: int, layers: int, vocabulary: int, context: int = 77) -> list[tuple[int, ...]]:
    """Parameters of two transformers of this width, with patch and token embeddings, as in a CLIP."""
    block = [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    towers = [shape for _ in range(2 * layers) for shape in block]
    ends = [(width, 3, 16, 16), (197, width), (width,), (width, width), (vocabulary, width), (context, width), ()]
    return towers + ends


SIZES = {
    "10 M": shapes(256, 4, 12000),
    "100 M": shapes(640, 8, 32000),
}


def run(*, repeats: int = 15, sizes: Iterable[str] = ("10 M", "100 M")) -> list[Row]:
    """All comparisons.

    Args:
        repeats: counted pairs each.
        sizes: keys of `SIZES`.
    """
    rows = []
    for size in sizes:
        params = parameters(SIZES[size])
        rows += _norm(size, params, repeats)
        rows += _step(size, params, repeats)
        rows += _blocks(size, params, repeats)
        rows += _agc(size, params, repeats)
    return rows


def parameters(of: Iterable[tuple[int, ...]]) -> list[nn.Parameter]:
    """Random weights with gradients of norm about 1 in all."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in of]
    total = sum(p.numel() for p in params) ** 0.5
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) / total
    return params


def _grads(params: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _best(function: Callable[[], Any], repeats: int) -> float:
    """The fastest of several calls, in milliseconds."""
    return 1e3 * min(timed(function) for _ in range(max(3, repeats)))


def read_time(params: list[nn.Parameter], repeats: int) -> float:
    """One read of the gradients: each reduced to its sum, in milliseconds."""
    grads = _grads(params)
    return _best(lambda: [grad.sum() for grad in grads], repeats)


def write_time(params: list[nn.Parameter], repeats: int) -> float:
    """One read and write of the gradients: each multiplied by a number, in milliseconds."""
    grads = _grads(params)
    return _best(lambda: torch._foreach_mul_(grads, 1.0), repeats)


def _norm(size: str, params: list[nn.Parameter], repeats: int) -> list[Row]:
    """Global rules against torch's function, where nothing is clipped and where everything is."""
    read, write = read_time(params, repeats), write_time(params, repeats)
    rows = []
    limits = _falling(0.9)
    falling = _always_clipping(limits)
    rows.append(_unclipped("norm", NormClip(FAR), size, params, read, repeats))
    rows.append(
        compare(
            f"norm, clipping, {size}",
            lambda: falling(params),
            lambda: nn.utils.clip_grad_norm_(params, next(limits), foreach=True),
            repeats=repeats,
            speedup=False,
            goal="at most 1.05x",
            target=1.05,
            limit=read + write,
            peer_name="torch.nn.utils.clip_grad_norm_(foreach=True)",
            note="limit: one read, and one read and write",
        )
    )
    for name, clip in (("ZClip", ZClip(max_grad_norm=None)), ("AutoClip", AutoClip(100))):
        rows.append(_unclipped(name, clip, size, params, read, repeats))
    return rows


def _unclipped(name: str, clip: Clip, size: str, params: list[nn.Parameter], read: float, repeats: int) -> Row:
    """A global rule that clips nothing against torch's function with a limit that nothing reaches."""
    return compare(
        f"{name}, nothing clipped, {size}",
        lambda: clip(params),
        lambda: nn.utils.clip_grad_norm_(params, FAR, foreach=True),
        repeats=repeats,
        speedup=False,
        goal="at most 0.55x",
        target=0.55,
        limit=read,
        peer_name="torch.nn.utils.clip_grad_norm_(foreach=True)",
        note="limit: one read of the gradients",
    )


def _falling(limit: float) -> Iterator[float]:
    """Limits of which each lies a little below the last, for calls that must clip what the last call left.

    Two sides that share gradients share these too; else the second of a pair would find them clipped already.
    """
    while True:
        yield limit
        limit *= 0.999


def _always_clipping(limits: Iterator[float]) -> Clip:
    """`NormClip` with a new limit at every call."""
    return Clip(Scheduled(lambda step: next(limits)), eps=1e-6, only_above=False)


def _step(size: str, params: list[nn.Parameter], repeats: int) -> list[Row]:
    """Clip and fused AdamW step against the step alone and one read."""
    read = read_time(params, repeats)
    rows = []
    cases = (("nothing clipped", NormClip(FAR), 1.05), ("clipping", _always_clipping(_falling(1e-3)), 1.2))
    for name, clip, target in cases:
        ours = torch.optim.AdamW(params, lr=1e-9, fused=True)
        plain = torch.optim.AdamW(params, lr=1e-9, fused=True)
        clip.attach(ours)
        grads = _grads(params)

        def step_and_read(plain: Any = plain, grads: list[Tensor] = grads) -> None:
            for grad in grads:
                grad.sum()
            plain.step()

        rows.append(
            compare(
                f"clip and fused AdamW step, {name}, {size}",
                ours.step,
                step_and_read,
                repeats=repeats,
                warmup=2,
                speedup=False,
                goal=f"at most {target}x",
                target=target,
                limit=read + _best(plain.step, 3),
                peer_name="the step and one read of the gradients",
                note="limit: the fastest step plus the fastest read",
            )
        )
    return rows


def _blocks(size: str, params: list[nn.Parameter], repeats: int) -> list[Row]:
    """Rules by tensor and by unit against the norm of everything, where nothing is clipped."""
    read, whole = read_time(params, repeats), NormClip(FAR)
    cases: dict[str, tuple[Clip, float]] = {
        "by tensor": (Clip(FAR, granularity="tensor"), read),
        "by unit": (Clip(FAR, granularity="unit"), read),
        "AdaGC": (AdaGC(FAR, float("inf"), warmup_steps=1), read),
        "AGC": (AGC(FAR), 2 * read),
    }
    return [
        compare(
            f"{name}, nothing clipped, {size}",
            lambda clip=clip: clip(params),
            (lambda: whole(params)) if name != "AGC" else (lambda: _norms_of_both(whole, params)),
            repeats=repeats,
            speedup=False,
            goal="at most 1.3x",
            target=1.3,
            limit=limit,
            peer_name="NormClip" if name != "AGC" else "NormClip and the norm of the weights",
            note="limit: one read of all that is measured",
        )
        for name, (clip, limit) in cases.items()
    ]


def _norms_of_both(whole: Clip, params: list[nn.Parameter]) -> None:
    whole(params)
    torch._foreach_norm([p.detach() for p in params])


def _agc(size: str, params: list[nn.Parameter], repeats: int) -> list[Row]:
    """AGC against timm's and pytorch-optimizer's, where about half the units are clipped and where none is."""
    from pytorch_optimizer.optimizer.agc import agc
    from timm.utils import adaptive_clip_grad

    def theirs(clipping: float) -> Callable[[], None]:
        def call() -> None:
            with torch.no_grad():
                for p in params:
                    p.grad = agc(p, p.grad, 1e-3, clipping)

        return call

    original = [grad.clone() for grad in _grads(params)]

    def restored(function: Callable[[], Any]) -> float:
        for p, grad in zip(params, original, strict=True):
            p.grad = grad.clone()
        return timed(function)

    ratios = AGC(1.0)(params)
    middle = float((ratios.stat / ratios.limit).median())
    limit = 2 * read_time(params, repeats)
    whole = NormClip(FAR)
    norms = 1e3 * min(timed(lambda: _norms_of_both(whole, params)) for _ in range(repeats))
    rows = []
    for name, clipping in (("half of the units clipped", middle), ("nothing clipped", FAR)):
        clip = AGC(clipping)
        ours: Callable[[], Any] = lambda clip=clip: clip(params)  # noqa: E731
        peers: dict[str, Callable[[], Any]] = {
            "timm.utils.adaptive_clip_grad": lambda clipping=clipping: adaptive_clip_grad(params, clipping),
            "pytorch_optimizer.agc": theirs(clipping),
        }
        for peer_name, peer in peers.items():
            pairs = [(restored(ours), restored(peer)) for _ in range(repeats + 1)][1:]
            quotients = [b / a for a, b in pairs]
            rows.append(
                Row(
                    name=f"AGC, {name}, {size}",
                    ours=1e3 * statistics.median(a for a, _ in pairs),
                    peer=1e3 * statistics.median(b for _, b in pairs),
                    unit="ms",
                    ratio=statistics.median(quotients),
                    low=min(quotients),
                    high=max(quotients),
                    goal="at least 3x as fast",
                    limit=limit,
                    note="limit: one read of gradients and weights; two norms by torch, without units and limits, "
                    f"take {norms:.3g} ms: at most {1e3 * statistics.median(b for _, b in pairs) / norms:.1f}x",
                    met=statistics.median(quotients) >= 3,
                    peer_name=peer_name,
                )
            )
    return rows
