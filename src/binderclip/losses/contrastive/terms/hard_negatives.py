"""Texts that each picture is to be told apart from: the loss against object hallucination."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings
from binderclip.losses.contrastive.share import Share
from binderclip.similarity.geometry import Cosine

__all__ = ["HardNegativeMargin"]

Padding = Literal["mask", "zero"]
Direction = Literal["above", "below"]


class HardNegativeMargin(nn.Module):
    """Text-to-image cross-entropy with own negative captions of each picture, and two margins.

    Row i compares caption i with all pictures of the batch, and picture i with its N negative captions: a softmax over
    B + N logits whose target is the pair. M1 wants the pair at least `tau` above each of the others; M2 wants negative
    captions, which are right but for an object, at least `tau` above caption i's best picture of another pair. Logits
    are cosines times the loss's scale. Half of the cross-entropy is the other half of CLIP's loss: put it beside
    `Pair(weight=0.5, symmetric=False)`, as `losses.hard_negative` does. Computed in blocks of rows that are computed
    again in the backward pass, so that the matrix of all pairs is never held whole.

    The loss is called with `negatives=` (n, N, d), raw features, and `negatives_valid=` (n, N) of ones and zeros where
    some pictures have fewer.

    Args:
        weight: of this term in the total.
        tau: both margins, in logits.
        pair_margin, negative_margin: weights of M1 and M2; 0 leaves one out.
        padding: `mask` leaves missing negatives out; `zero` counts them as logits of 0, as the official code does.
        direction: `above` as said, the official code since its correction; `below` pushes negative captions under the
            best other picture, as its first version did.
        negatives: name of the negatives.

    Raises:
        UsageError: a negative weight or margin, an unknown word; at the call, negatives of another shape or another
            geometry than the cosine.

    Paper: Investigating and Mitigating Object Hallucinations in Pretrained Vision-Language (CLIP) Models, arXiv
    2410.03176.
    """

    name = "hard-negatives"

    def __init__(
        self,
        weight: float = 1.0,
        *,
        tau: float = 5.0,
        pair_margin: float = 0.2,
        negative_margin: float = 0.2,
        padding: Padding = "mask",
        direction: Direction = "above",
        negatives: str = "negatives",
    ) -> None:
        super().__init__()
        if min(tau, pair_margin, negative_margin) < 0:
            raise UsageError(f"tau {tau} and the margins' weights {pair_margin}, {negative_margin} must be at least 0")
        if padding not in ("mask", "zero") or direction not in ("above", "below"):
            raise UsageError(f"padding must be mask or zero, direction above or below; got {padding!r}, {direction!r}")
        self.weight, self.tau, self.pair_margin, self.negative_margin = weight, tau, pair_margin, negative_margin
        self.padding, self.direction, self.negatives = padding, direction, negatives

    def extra_repr(self) -> str:
        return f"weight={self.weight}, tau={self.tau}, padding={self.padding!r}, direction={self.direction!r}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """Half the cross-entropy plus the weighted margins, over the whole batch."""
        share, chunk = embeddings.share, embeddings.chunk
        if type(embeddings.similarity) is not Cosine:
            raise UsageError(f"hard negatives are compared by cosines, not {type(embeddings.similarity).__name__}")
        image, text = embeddings.space("image"), embeddings.space("text")  # (n, d)
        negatives, valid = self._negatives(embeddings, image)
        scale = share.average(embeddings.scales["main"][0]).to(image.dtype)
        own = scale * torch.einsum("nd,nkd->nk", image, negatives)  # (n, N)
        everyone = _Gather.apply(image, share)  # (B, d)
        rows = []
        for start in range(0, len(image), chunk):
            part = slice(start, start + chunk)
            given = (scale * text[part], everyone, own[part], valid[part], start + share.offset)
            whole = chunk >= len(image)
            rows.append(self._rows(*given) if whole else checkpoint(self._rows, *given, use_reentrant=False))
        return embeddings.mean(torch.cat(rows))

    def _negatives(self, e: Embeddings, image: Tensor) -> tuple[Float[Tensor, "n N d"], Bool[Tensor, "n N"]]:
        negatives = e[self.negatives]
        if negatives.ndim != 3 or negatives.shape[::2] != image.shape:
            raise UsageError(
                f"{self.negatives} must be (n, N, d) = ({len(image)}, N, {image.shape[1]}), got "
                f"{tuple(negatives.shape)}"
            )
        unit = e.similarity.embed(negatives, "text")
        mask = e.raw.get(f"{self.negatives}_valid")
        if mask is None:
            return unit, torch.ones(negatives.shape[:2], dtype=torch.bool, device=negatives.device)
        if mask.shape != negatives.shape[:2]:
            raise UsageError(
                f"{self.negatives}_valid must be (n, N) = {tuple(negatives.shape[:2])}, got {tuple(mask.shape)}"
            )
        return unit, mask.detach() > 0

    def _rows(
        self, text: Float[Tensor, "r d"], images: Float[Tensor, "B d"], own: Tensor, valid: Tensor, offset: int
    ) -> Float[Tensor, "r"]:
        """The loss of some rows: scaled texts against all pictures, and the logits of the own negatives."""
        with torch.autocast(text.device.type, enabled=False):
            logits = text @ images.T  # (r, B)
        at = torch.arange(len(text), device=text.device)
        positive = logits[at, at + offset]  # (r,)
        others = logits.index_put((at, at + offset), logits.new_tensor(-torch.inf))
        listed = valid if self.padding == "mask" else torch.ones_like(valid)
        own = own.masked_fill(~valid, -torch.inf if self.padding == "mask" else 0.0)
        rows = 0.5 * (torch.cat([logits, own], 1).logsumexp(1) - positive)
        if self.pair_margin:
            lacks = (self.tau + torch.cat([others, own.masked_fill(~valid, -torch.inf)], 1) - positive[:, None]).relu()
            rows = rows + self.pair_margin * lacks.sum(1) / (logits.shape[1] - 1 + listed.sum(1)).clamp_min(1)
        if self.negative_margin and logits.shape[1] > 1:
            best = others.amax(1, keepdim=True)  # (r, 1)
            sign = -1 if self.direction == "above" else 1
            missed = (self.tau + sign * (own.masked_fill(~valid, 0.0) - best)).relu() * valid
            rows = rows + self.negative_margin * missed.sum(1) / listed.sum(1).clamp_min(1)
        return rows


class _Gather(torch.autograd.Function):
    """Everybody's rows, whose gradients are summed over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return share.gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.share.scatter_sum(gradients[0]), None
