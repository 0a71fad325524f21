"""`ContrastiveLoss`: geometry, pairs, scale, link, targets and terms, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings, Term
from binderclip.losses.contrastive.links import (
    ReweightedSoftmaxLink,
    SigmoidLink,
    SoftmaxLink,
    block_side,
    check_features,
    check_loss_finite,
    make_plan,
)
from binderclip.losses.contrastive.scale import AlignmentScale, LogitScale
from binderclip.losses.contrastive.share import Share, share_of
from binderclip.losses.contrastive.targets import Diagonal, Targets, TwoViews, key_ids
from binderclip.settings import check_choice
from binderclip.similarity.geometry import Cosine, Similarity, at_least_float32, geometry_named

__all__ = ["LINKS", "ContrastiveLoss", "LinkName", "LossOutput", "Pair"]

LinkName = Literal["softmax", "sigmoid", "reweighted-softmax"]
LINKS: dict[str, Callable[[], Any]] = {
    "softmax": SoftmaxLink,
    "sigmoid": SigmoidLink,
    "reweighted-softmax": ReweightedSoftmaxLink,
}


@dataclass
class LossOutput:
    """What a loss says about one batch; in sums, products and torch's functions it is its `total`.

    So `output + 0.1 * other`, `output / accumulation_steps`, `float(output)`, `output.item()` and `output.backward()`
    work as they do with a tensor. What asks for a tensor by its class (`GradScaler.scale`, Lightning's
    `training_step`, the Hugging Face Trainer) takes `output.total`.

    Args:
        total: the sum of the terms, 0-dim, with its graph.
        terms: weighted terms by name.
        metrics: detached 0-dim tensors by name (in-batch accuracy, similarities, scale).

    Examples:
        >>> output = LossOutput(torch.tensor(2.0, requires_grad=True))
        >>> (output / 4 + 1).item(), f"{output.item():.1f}"
        (1.5, '2.0')
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def backward(self, *args: Any, **options: Any) -> None:
        """`total.backward(...)`, with its arguments (`retain_graph`, `inputs`, ...)."""
        self.total.backward(*args, **options)

    def item(self) -> float:
        """`total.item()`: a number, and a wait for the device."""
        return self.total.item()

    def detach(self) -> Float[Tensor, ""]:
        """`total.detach()`."""
        return self.total.detach()

    def __float__(self) -> float:
        return self.total.item()

    def __neg__(self) -> Tensor:
        return -self.total

    def __add__(self, other: Any) -> Tensor:
        return self.total + _total(other)

    # sum() starts at 0
    __radd__ = __add__

    def __sub__(self, other: Any) -> Tensor:
        return self.total - _total(other)

    def __rsub__(self, other: Any) -> Tensor:
        return _total(other) - self.total

    def __mul__(self, other: Any) -> Tensor:
        return self.total * _total(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Tensor:
        return self.total / _total(other)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A function of torch, or an operator with a tensor on the left, sees the totals, also in a list of them."""
        return func(*map(_total, args), **{name: _total(value) for name, value in (kwargs or {}).items()})


def _total(value: Any) -> Any:
    """The total of an output, alone or in a list; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_total, value)) if any(isinstance(part, LossOutput) for part in value) else value
    return value.total if isinstance(value, LossOutput) else value


@dataclass(frozen=True)
class Pair:
    """One line of the pair plan: which embeddings are compared, and how.

    Of embeddings with several views a row, (n, V, d), every view of one is compared with every view of the other, and
    the mean of these is the pair's loss; an embedding with itself (`Pair("image", "image")`) means its views with each
    other.

    Args:
        a, b: names of the embeddings ("image", "text", or keywords of the call).
        weight: of this pair's loss in the total.
        scale: name of the logit scale.
        smoothing: label smoothing in [0, 1) (softmax link).
        symmetric: average both directions; else only from a to b (softmax link).
        same_view_negatives: put both views into one batch of 2 B rows, each an anchor whose negatives are the 2 B - 2
            others (SimCLR's NT-Xent, arXiv 2002.05709; softmax links and `Diagonal` targets).
    """

    a: str = "image"
    b: str = "text"
    weight: float = 1.0
    scale: str = "main"
    smoothing: float = 0.0
    symmetric: bool = True
    same_view_negatives: bool = False

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
        similarity: geometry, or its name in `SIMILARITIES`; default `Cosine()`.
        scales: a `LogitScale`, or several by name (one of them "main"); default `LogitScale()` at the geometry's
            initial scale, for the sigmoid link `LogitScale(10.0, bias=-10.0)`.
        link: "softmax", "sigmoid" or "reweighted-softmax".
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
        similarity: Similarity | str | None = None,
        scales: LogitScale | Mapping[str, LogitScale] | None = None,
        link: LinkName = "softmax",
        targets: Targets | None = None,
        terms: Iterable[Term] = (),
        gather: Any = "auto",
        chunk: int | None = None,
        metrics: bool = True,
    ) -> None:
        super().__init__()
        check_choice("link", link, LINKS)
        self.pairs = tuple(pairs)
        self.similarity = geometry_named(similarity)
        if scales is None:
            scales = LogitScale(10.0, bias=-10.0) if link == "sigmoid" else LogitScale(self.similarity.initial_scale)
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
        adaptive = any(isinstance(scale, AlignmentScale) for scale in self.scales.values())
        if adaptive and type(self.similarity) is not Cosine:
            raise UsageError(f"an AlignmentScale follows cosines, not {type(self.similarity).__name__}")
        if any(pair.same_view_negatives for pair in self.pairs) and not isinstance(self.targets, Diagonal):
            raise UsageError("same_view_negatives goes with Diagonal() targets")

    @property
    def scale(self) -> LogitScale:
        """The main logit scale."""
        return cast(LogitScale, self.scales["main"])

    def forward(
        self,
        image_features: Float[Tensor, "n d"] | Float[Tensor, "n V d"],
        text_features: Float[Tensor, "n d"] | Float[Tensor, "n W d"] | None = None,
        *,
        logit_scale: float | Float[Tensor, ""] | None = None,
        logit_bias: float | Float[Tensor, ""] | None = None,
        keys: Sequence[str] | Sequence[int] | Int[Tensor, "n"] | None = None,
        gather: Any = None,
        output_dict: bool = False,
        **named: Float[Tensor, "n ..."],
    ) -> LossOutput | dict[str, Tensor]:
        """The loss of one batch.

        Args:
            image_features, text_features: raw features of this process's rows, called "image" and "text" in pairs; of
                several views a row (n, V, d), for pairs.
            logit_scale: used instead of the loss's own main scale; the scale itself, as open_clip passes it.
            logit_bias: used instead of its bias.
            keys: captions or labels, one per row, for `SameKey`.
            gather: overrides the constructor's.
            output_dict: return the weighted terms as a dictionary, as open_clip's training loop wants them.
            named: further embeddings, (n, d), or several for each row, (n, k, d).

        Returns:
            A `LossOutput`, or with `output_dict` the terms, whose sum is the loss.

        Raises:
            UsageError: shapes that do not match, a missing embedding or keys, an empty batch, a single pair with the
                softmax link, or (on a CPU) features that are not finite.
        """
        raw = {"image": image_features, **({} if text_features is None else {"text": text_features}), **named}
        if len(self.terms) and image_features.ndim > 2:
            raise UsageError("terms take one image and one text a row: pass further views by another name, (n, V, d)")
        e = self._embeddings(raw, logit_scale, logit_bias, keys, self.gather if gather is None else gather)
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        if self.pairs:
            positives = self.targets.bind(e.share, e.ids)
            for pair in self.pairs:
                value, figures = self._compare(pair, positives, e)
                alone = len(self.pairs) == 1
                terms["contrastive" if alone else pair.name] = pair.weight * value
                metrics |= {name if alone else f"{pair.name}/{name}": metric for name, metric in figures.items()}
        for term in cast(Iterable[Term], self.terms):
            value = term.weight * term(e)
            terms[term.name] = terms[term.name] + value if term.name in terms else value
        total = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        check_loss_finite(total, raw)
        return (
            {f"{name}_loss": value for name, value in terms.items()}
            if output_dict
            else LossOutput(total, terms, metrics)
        )

    def _embeddings(self, raw: dict[str, Tensor], scale: Any, bias: Any, keys: Any, gather: Any) -> Embeddings:
        image = raw["image"]
        for name, value in raw.items():
            flat = value.flatten(1) if isinstance(value, Tensor) and value.ndim > 2 else value
            check_features(flat, flat, (name, name))
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
        self.similarity.share = share
        return Embeddings(raw, self.similarity, share, scales, block_side(self.chunk, image.device), ids)

    def _compare(self, pair: Pair, positives: Any, e: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of a pair, means over the pairings of its views."""
        a, b = e.views(pair.a), e.views(pair.b)
        pairings = list(combinations(a, 2) if pair.a == pair.b else product(a, b))
        if not pairings:
            raise UsageError(
                f"the pair {pair.name} compares views of one embedding: pass {pair.a} as (n, V, d) of at least 2, got "
                f"{tuple(e[pair.a].shape)}"
            )
        compared = [self._pairing(replace(pair, a=one, b=other), positives, e) for one, other in pairings]
        if len(compared) == 1:
            return compared[0]
        values, figures = zip(*compared, strict=True)
        return torch.stack(values).mean(), {name: torch.stack([f[name] for f in figures]).mean() for name in figures[0]}

    def _pairing(self, pair: Pair, positives: Any, e: Embeddings) -> tuple[Tensor, dict[str, Tensor]]:
        check_features(e[pair.a], e[pair.b], (pair.a, pair.b))
        a, b = e.sides(pair.a, pair.b)
        share, symmetric = e.share, pair.symmetric
        if pair.same_view_negatives:
            if pair.smoothing:
                raise UsageError("label smoothing does not go with same_view_negatives")
            other_a, other_b = e.sides(pair.b, pair.a)
            a, b = torch.cat([a, other_a]), torch.cat([other_b, b])  # (2 n, k) each, both views of every row
            share, symmetric = e.share.doubled, False
            positives = TwoViews(share)
        scale, bias = e.scales[pair.scale]
        rule = self.scales[pair.scale]
        if isinstance(rule, AlignmentScale):
            scale = scale / rule.relative_tau(e.mean(e.similarity.paired(e.space(pair.a), e.space(pair.b)).detach()))
        factored = e.factor(scale).to(a.dtype)
        plan = make_plan(
            share,
            positives,
            e.chunk,
            smoothing=pair.smoothing,
            symmetric=symmetric,
            metrics=self.metrics,
            of_dot=e.similarity.of_dot,
        )
        value, figures = self.link(a, b, factored, None if bias is None else bias.to(a.dtype), plan)
        return value, self._measure(pair, a, b, scale, figures, share, e) if self.metrics else {}

    @torch.no_grad()
    def _measure(
        self, pair: Pair, a: Tensor, b: Tensor, scale: Tensor, figures: Tensor, share: Share, e: Embeddings
    ) -> dict[str, Tensor]:
        """Metrics. Where similarities are dot products, their mean over all pairs is the product of sums, which needs
        no pass over the pairs.
        """
        total, of_dot, two_views = share.total, e.similarity.of_dot, pair.same_view_negatives

        def summed(partners: Tensor) -> Tensor:
            dots = (a * partners).sum(1)
            return (dots if of_dot is None else of_dot.value(dots)).sum()

        own = summed(b.roll(len(b) // 2, 0) if two_views else b)
        # with two views in one batch every row meets itself, and that is no pair
        itself = summed(b) if two_views else a.new_zeros(())
        sums = share.sum(torch.cat([a.sum(0), b.sum(0), own.reshape(1), itself.reshape(1)]))
        of_a, of_b, own, itself = sums[: a.shape[1]], sums[a.shape[1] : -2], sums[-2], sums[-1]
        every = of_a @ of_b if of_dot is None else figures[2]
        others = total * (total - (2 if two_views else 1))
        factor, rates = e.similarity.factor(), figures[:2] / total
        return {
            "accuracy_a_to_b": rates[0],
            **({} if two_views else {"accuracy_b_to_a": rates[1]}),
            "similarity_positive": factor * own / total,
            "similarity_negative": factor * (every - own - itself) / max(1, others),
            "scale": scale.detach(),
        }
