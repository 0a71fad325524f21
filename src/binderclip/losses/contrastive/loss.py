"""`ContrastiveLoss`: geometry, pairs, scale, link, targets and terms, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings, Term
from binderclip.losses.contrastive.geometry import Cosine, Similarity, at_least_float32
from binderclip.losses.contrastive.links import (
    SigmoidLink,
    SoftmaxLink,
    block_side,
    check_features,
    check_finite,
    make_plan,
)
from binderclip.losses.contrastive.scale import LogitScale
from binderclip.losses.contrastive.share import share_of
from binderclip.losses.contrastive.targets import Diagonal, Targets, key_ids

__all__ = ["LINKS", "METHODS", "ContrastiveLoss", "LossOutput", "Pair", "clip", "siglip"]

LINKS: dict[str, Callable[[], Any]] = {"softmax": SoftmaxLink, "sigmoid": SigmoidLink}


@dataclass
class LossOutput:
    """What a loss says about one batch.

    Args:
        total: the sum of the terms, 0-dim, with its graph.
        terms: weighted terms by name.
        metrics: detached 0-dim tensors by name (in-batch accuracy, similarities, scale).
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def backward(self) -> None:
        """`total.backward()`."""
        self.total.backward()


@dataclass(frozen=True)
class Pair:
    """One line of the pair plan: which embeddings are compared, and how.

    Args:
        a, b: names of the embeddings ("image", "text", or keywords of the call).
        weight: of this pair's loss in the total.
        scale: name of the logit scale.
        smoothing: label smoothing in [0, 1) (softmax link).
        symmetric: average both directions; else only from a to b (softmax link).
    """

    a: str = "image"
    b: str = "text"
    weight: float = 1.0
    scale: str = "main"
    smoothing: float = 0.0
    symmetric: bool = True

    @property
    def name(self) -> str:
        """As it appears among the terms."""
        return f"{self.a}-{self.b}"


class ContrastiveLoss(nn.Module):
    """Pull matching embeddings together and push the rest of the batch apart.

    Embed, compare the chosen pairs, scale, and score against targets, over a batch that may be spread over processes
    and is cut into blocks where it is large. Value and gradients are those of one process holding the whole batch with
    its whole logit matrix. Features enter raw: the geometry normalises.

    With several processes each computes its own images' rows only. Feature gradients are multiplied by the number of
    processes, so that the average which DDP and FSDP form over parameter gradients is the exact one; the gradient of
    the scale is complete in every process, averaged or not. Local batches may differ in size with `gather="auto"`.

    Args:
        pairs: the pair plan; default: images with texts.
        similarity: geometry, default `Cosine()`.
        scales: a `LogitScale`, or several by name (one of them "main"); default `LogitScale()`, for the sigmoid link
            `LogitScale(10.0, bias=-10.0)`.
        link: "softmax" or "sigmoid".
        targets: `Diagonal()` or `SameKey()`.
        terms: further terms on the embeddings (`losses.EmbeddingDistill`, ...).
        gather: "auto", "equal", "none" or a process group: see `losses.contrastive.share.share_of`.
        chunk: side of a block; batches up to it take the dense way, which can be differentiated twice.
        metrics: report in-batch accuracy and similarities.

    Raises:
        UsageError: unknown link, missing scale, or settings that exclude each other.

    Examples:
        >>> loss = ContrastiveLoss()
        >>> output = loss(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(output.metrics)[:2]
        ['accuracy_a_to_b', 'accuracy_b_to_a']

    Paper: CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343.
    """

    def __init__(
        self,
        pairs: Sequence[Pair] = (Pair(),),
        *,
        similarity: Similarity | None = None,
        scales: LogitScale | Mapping[str, LogitScale] | None = None,
        link: Literal["softmax", "sigmoid"] = "softmax",
        targets: Targets | None = None,
        terms: Iterable[Term] = (),
        gather: Any = "auto",
        chunk: int | None = None,
        metrics: bool = True,
    ) -> None:
        super().__init__()
        if link not in LINKS:
            raise UsageError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
        if scales is None:
            scales = LogitScale(10.0, bias=-10.0) if link == "sigmoid" else LogitScale()
        self.pairs = tuple(pairs)
        self.similarity = similarity if similarity is not None else Cosine()
        self.scales = nn.ModuleDict({"main": scales} if isinstance(scales, LogitScale) else dict(scales))
        if "main" not in self.scales:
            raise UsageError(f"one of the logit scales must be called 'main', got {sorted(self.scales)}")
        self.link = LINKS[link]()
        self.targets = targets if targets is not None else Diagonal()
        self.terms = nn.ModuleList(terms)  # type: ignore[arg-type]
        self.gather, self.chunk, self.metrics = gather, chunk, metrics
        missing = {pair.scale for pair in self.pairs} - set(self.scales)
        if missing:
            raise UsageError(f"pairs name the logit scales {sorted(missing)}, but only {sorted(self.scales)} exist")
        if not self.pairs and not len(self.terms):
            raise UsageError("the loss has neither pairs nor terms")

    @property
    def scale(self) -> LogitScale:
        """The main logit scale."""
        return cast(LogitScale, self.scales["main"])

    def forward(
        self,
        image_features: Float[Tensor, "n d"],
        text_features: Float[Tensor, "n d"] | None = None,
        *,
        logit_scale: float | Float[Tensor, ""] | None = None,
        logit_bias: float | Float[Tensor, ""] | None = None,
        keys: Sequence[str] | Sequence[int] | Int[Tensor, "n"] | None = None,
        gather: Any = None,
        output_dict: bool = False,
        **named: Float[Tensor, "n _"],
    ) -> LossOutput | dict[str, Tensor]:
        """The loss of one batch.

        Args:
            image_features, text_features: raw features of this process's rows, called "image" and "text" in pairs.
            logit_scale: used instead of the loss's own main scale; the scale itself, as open_clip passes it.
            logit_bias: used instead of its bias.
            keys: captions or labels, one per row, for `SameKey`.
            gather: overrides the constructor's.
            output_dict: return the weighted terms as a dictionary, as open_clip's training loop wants them.
            named: further embeddings.

        Returns:
            A `LossOutput`, or with `output_dict` the terms, whose sum is the loss.

        Raises:
            UsageError: shapes that do not match, a missing embedding or keys, an empty batch, a single pair with the
                softmax link, or (on a CPU) features that are not finite.
        """
        raw = {"image": image_features, **({} if text_features is None else {"text": text_features}), **named}
        e = self._embeddings(raw, logit_scale, logit_bias, keys, self.gather if gather is None else gather)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if self.pairs:
            positives = self.targets.bind(e.share, e.ids)
            for pair in self.pairs:
                value, found = self._compare(pair, positives, e)
                alone = len(self.pairs) == 1
                terms["contrastive" if alone else pair.name] = pair.weight * value
                metrics |= {name if alone else f"{pair.name}/{name}": metric for name, metric in found.items()}
        for term in cast(Iterable[Term], self.terms):
            value = term.weight * term(e)
            terms[term.name] = terms[term.name] + value if term.name in terms else value
        total = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        check_finite(total, raw)
        return (
            {f"{name}_loss": value for name, value in terms.items()}
            if output_dict
            else LossOutput(total, terms, metrics)
        )

    def _embeddings(self, raw: dict[str, Tensor], scale: Any, bias: Any, keys: Any, gather: Any) -> Embeddings:
        image = raw["image"]
        for name, value in raw.items():
            check_features(value, value, (name, name))
            if len(value) != len(image):
                raise UsageError(f"image features have {len(image)} rows, {name} features {len(value)}")
        scales = {name: module() for name, module in self.scales.items()}
        dtype = at_least_float32(image).dtype
        own_scale, own_bias = scales["main"] if scale is None else (scale, None)
        given = own_bias if bias is None else bias
        scales["main"] = (
            torch.as_tensor(own_scale, device=image.device, dtype=dtype),
            None if given is None else torch.as_tensor(given, device=image.device, dtype=dtype),
        )
        ids = None if keys is None else key_ids(keys, image.device)
        if ids is not None and ids.shape != image.shape[:1]:
            raise UsageError(f"keys= needs one entry per row: {len(image)} rows, keys of shape {tuple(ids.shape)}")
        share = share_of(len(image), image.device, gather)
        return Embeddings(raw, self.similarity, share, scales, block_side(self.chunk, image.device), ids)

    def _compare(self, pair: Pair, positives: Any, e: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        check_features(e[pair.a], e[pair.b], (pair.a, pair.b))
        a, b = e.space(pair.a), e.space(pair.b)
        scale, bias = e.scales[pair.scale]
        plan = make_plan(
            e.share, positives, e.chunk, smoothing=pair.smoothing, symmetric=pair.symmetric, metrics=self.metrics
        )
        value, hits = self.link(a, b, scale.to(a.dtype), None if bias is None else bias.to(a.dtype), plan)
        return value, self._measure(a, b, scale, hits, e) if self.metrics else {}

    @torch.no_grad()
    def _measure(self, a: Tensor, b: Tensor, scale: Tensor, hits: Tensor, e: Embeddings) -> dict[str, Tensor]:
        """Metrics; the mean over all pairs is the product of the sums, so it needs no pass over the pairs."""
        total = e.share.total
        sums = torch.stack([a.sum(0), b.sum(0)])
        sums = e.share.sum(torch.cat([sums.flatten(), (a * b).sum().reshape(1)]))
        of_a, of_b, own = sums[: a.shape[1]], sums[a.shape[1] : -1], sums[-1]
        rates = hits / total
        return {
            "accuracy_a_to_b": rates[0],
            "accuracy_b_to_a": rates[1],
            "similarity_positive": own / total,
            "similarity_negative": (of_a @ of_b - own) / max(1, total * (total - 1)),
            "scale": scale.detach(),
        }


def clip(
    *,
    init_scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    smoothing: float = 0.0,
    **settings: Any,
) -> ContrastiveLoss:
    """CLIP's loss: cosine, softmax over both sides, learned scale of at most 100.

    Args:
        init_scale, max_scale, learnable: of the `LogitScale`.
        smoothing: label smoothing in [0, 1).
        settings: further arguments of `ContrastiveLoss`.

    Paper: Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020.
    """
    scale = LogitScale(init_scale, max_scale, learnable=learnable)
    return ContrastiveLoss((Pair(smoothing=smoothing),), scales=scale, **settings)


def siglip(
    *,
    init_scale: float = 10.0,
    init_bias: float = -10.0,
    max_scale: float | None = None,
    learnable: bool = True,
    **settings: Any,
) -> ContrastiveLoss:
    """SigLIP's loss: cosine, an independent sigmoid per pair, learned scale and bias.

    Args:
        init_scale, init_bias, max_scale, learnable: of the `LogitScale`.
        settings: further arguments of `ContrastiveLoss`.

    Paper: Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343.
    """
    scale = LogitScale(init_scale, max_scale, learnable=learnable, bias=init_bias)
    return ContrastiveLoss(scales=scale, link="sigmoid", **settings)


METHODS: dict[str, Callable[..., ContrastiveLoss]] = {"clip": clip, "siglip": siglip}
