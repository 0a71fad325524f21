"""PatchNCE of the taps of CUT's encoder by one product and a logsumexp, against positives beside masked negatives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, compare, timed
from binderclip.losses import PatchNCELoss

TEMPERATURE = 0.07
TAPS, PATCHES, WIDTH = 5, 256, 256
"""CUT's: taps of the encoder, places drawn of each, and length of their vectors."""


def run(*, repeats: int = 41) -> list[Row]:
    """Forward and backward, as CUT trains with and as SinCUT does.

    Args:
        repeats: pairs of runs.
    """
    return [
        _row(1, PATCHES, False, repeats, 1.5),
        _row(16, PATCHES, False, repeats, None),
        _row(16, 64, True, repeats, None),
    ]


def concatenated(queries: Tensor, keys: Tensor, among_all: bool) -> Tensor:
    """The loss of every patch [B S] as the equation is written: the positive's logit first, then the negatives'.

    Of S keys of an image the one at the query's own place is no negative: its logit is filled by -10.
    """
    batch, patches, width = queries.shape
    q, k = queries.reshape(-1, width), keys.detach().reshape(-1, width)
    positive = torch.bmm(q[:, None], k[:, :, None]).reshape(-1, 1)
    groups = 1 if among_all else batch
    grouped = q.reshape(groups, -1, width), k.reshape(groups, -1, width)
    negative = torch.bmm(grouped[0], grouped[1].transpose(1, 2))
    own = torch.eye(negative.shape[1], dtype=torch.bool)[None]
    negative = negative.masked_fill(own, -10.0).reshape(len(q), -1)
    logits = torch.cat([positive, negative], 1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long), reduction="none").reshape(batch, patches)


def _row(batch: int, patches: int, among_all: bool, repeats: int, target: float | None) -> Row:
    generator = torch.Generator().manual_seed(0)
    vectors = [
        [F.normalize(torch.randn(batch, patches, WIDTH, generator=generator), dim=2) for _ in range(TAPS)]
        for _ in range(2)
    ]
    queries, keys = [one.requires_grad_() for one in vectors[0]], vectors[1]
    loss = PatchNCELoss(TEMPERATURE, among_all)

    def step(each: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        total = torch.stack([each(q, k).mean() for q, k in zip(queries, keys, strict=True)]).mean()
        return (total.detach(), *torch.autograd.grad(total, queries))

    def ours() -> tuple[Tensor, ...]:
        return step(loss)

    def peer() -> tuple[Tensor, ...]:
        return step(lambda q, k: concatenated(q, k, among_all))

    def products() -> tuple[Tensor, ...]:
        return step(lambda q, k: q.flatten(0, 1) @ k.flatten(0, 1).T if among_all else q @ k.transpose(1, 2))

    torch.testing.assert_close(ours(), peer(), rtol=1e-4, atol=1e-6)
    limit = min(timed(products) for _ in range(repeats))
    negatives = "of all pictures" if among_all else "of their own picture"
    return compare(
        f"{TAPS} taps of {patches} patches, {batch} {'picture' if batch == 1 else 'pictures'}, negatives {negatives}",
        ours, peer, repeats=repeats, fastest=True, goal="at least 1.5x" if target else "", target=target,
        peer_name="positives beside masked negatives, cross-entropy",
        limit=1e3 * limit, note="forward and backward; limit: the matrix products alone, which both sides have",
    )  # fmt: skip
