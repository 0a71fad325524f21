"""The losses of the papers: `ContrastiveLoss` with their parts and constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import ContrastiveLoss, Pair
from binderclip.losses.contrastive.scale import AlignmentScale, LogitScale
from binderclip.losses.contrastive.terms.entailment import EntailmentCone
from binderclip.losses.contrastive.terms.hard_negatives import HardNegativeMargin
from binderclip.losses.contrastive.terms.refine import HybridContrastiveDistillation, RandomFeatureAlignment
from binderclip.settings import check_choice
from binderclip.similarity.geometry import Lorentz, SquaredEuclidean

__all__ = [
    "METHODS",
    "clip",
    "clip_refine",
    "clip_rocket",
    "euclip",
    "hard_negative",
    "macl",
    "mammo_clip",
    "meru",
    "siglip",
]


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
        init_scale, max_scale, learnable: of the `LogitScale`, which never falls below 1, or below where it starts.
        smoothing: label smoothing in [0, 1).
        settings: further arguments of `ContrastiveLoss`.

    Paper: Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020.
    """
    scale = LogitScale(init_scale, max_scale, min=min(1.0, init_scale), learnable=learnable)
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


def euclip(
    *,
    entailment: float = 0.0,
    radius: float = 0.1,
    init_scale: float | None = None,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    terms: Any = (),
    **settings: Any,
) -> ContrastiveLoss:
    """EuCLIP's loss: negative squared distance of features over sqrt(d), not normalised; softmax over both sides.

    For all of the paper's model leave the final normalisation of both towers out (`final_norm = false` of a recipe's
    new model). Search such embeddings by plain
    nearest neighbours, and average prompts without normalising.

    Args:
        entailment: weight of the cones by which a text entails its image; the paper uses 0 to 0.2.
        radius: of the cones.
        init_scale: initial logit scale; None: 1, with entailment 1/e.
        max_scale, learnable: of the `LogitScale`.
        terms: further terms.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a negative weight.

    Paper: Embedding Geometries of Contrastive Language-Image Pre-Training, arXiv 2409.13079.
    """
    if init_scale is None:
        init_scale = math.exp(-1) if entailment else 1.0
    settings.setdefault("similarity", SquaredEuclidean())
    scale = LogitScale(init_scale, max_scale, learnable=learnable)
    return ContrastiveLoss(scales=scale, terms=[*terms, *_cones(entailment, radius)], **settings)


def meru(
    *,
    entailment: float = 0.2,
    radius: float = 0.1,
    curvature: float = 1.0,
    init_scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    terms: Any = (),
    **settings: Any,
) -> ContrastiveLoss:
    """MERU's loss: negative distance on a hyperboloid of learned curvature, softmax over both sides, entailment cones.

    Args:
        entailment: weight of the cones by which a text entails its image.
        radius: of the cones.
        curvature: initial c of curvature -c.
        init_scale, max_scale: of the `LogitScale`.
        learnable: whether the scale, the curvature and the scales of the modalities are trained.
        terms: further terms.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a negative weight, or a curvature that is not positive.

    Paper: Hyperbolic Image-Text Representations, arXiv 2304.09172.
    """
    settings.setdefault("similarity", Lorentz(curvature, learnable=learnable))
    scale = LogitScale(init_scale, max_scale, learnable=learnable)
    return ContrastiveLoss(scales=scale, terms=[*terms, *_cones(entailment, radius)], **settings)


def macl(
    *,
    tau0: float = 0.1,
    alpha: float = 0.5,
    a0: float = 0.0,
    reweight: bool = True,
    learnable: bool = False,
    max_scale: float | None = 100.0,
    **settings: Any,
) -> ContrastiveLoss:
    """MACL's loss: cosine, a temperature that grows as positives align, rows divided by their easiness.

    With `pairs=[Pair("image", "view", same_view_negatives=True)]` and a second view of every image passed as `view=` it
    is the paper's own, on two augmentations.

    Args:
        tau0, alpha, a0, learnable: of the `AlignmentScale`.
        reweight: divide by the detached 1 - P of each row (`ReweightedSoftmaxLink`); else plain InfoNCE at that
            temperature.
        max_scale: largest 1 / tau0 of a learned one.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a setting out of its range.

    Paper: Model-Aware Contrastive Learning: Towards Escaping the Dilemmas, arXiv 2207.07874.
    """
    scale = AlignmentScale(tau0, alpha, a0, learnable=learnable, max=max_scale if learnable else None)
    return ContrastiveLoss(scales=scale, link="reweighted-softmax" if reweight else "softmax", **settings)


def clip_refine(
    *,
    rafa: float = 1.0,
    hycd: float = 1.0,
    contrastive: float = 0.0,
    alpha: float = 0.5,
    temperature: float = 1.0,
    normalize: bool = False,
    std: float | Literal["match"] = 1.0,
    shared: bool = True,
    decay: int | None = None,
    seed: int = 0,
    terms: Any = (),
    **settings: Any,
) -> ContrastiveLoss:
    """CLIP-Refine's loss: both sides follow one random vector, and the start model's similarities are kept.

    For a short training after the pre-training. The raw features of a frozen copy of the model, of the same batch, are
    passed as `teacher_image=` and `teacher_text=`; in a recipe `teacher = "start"` does that.

    Args:
        rafa, hycd: weights of `RandomFeatureAlignment` and `HybridContrastiveDistillation`.
        contrastive: weight of InfoNCE at the logit scale as it is, which is not trained; 0 only measures it.
        alpha, temperature, normalize: of `HybridContrastiveDistillation`.
        std, shared, decay, seed: of `RandomFeatureAlignment`.
        terms: further terms.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a setting out of its range.

    Paper: Post-pre-training for Modality Alignment in Vision-Language Foundation Models, arXiv 2504.12717.
    """
    own: list[Any] = [
        RandomFeatureAlignment(rafa, std=std, shared=shared, decay=decay, seed=seed),
        HybridContrastiveDistillation(hycd, alpha=alpha, temperature=temperature, normalize=normalize),
    ]
    kept = [term for term in own if term.weight]
    scale = LogitScale(learnable=False)
    return ContrastiveLoss((Pair(weight=contrastive),), scales=scale, terms=[*terms, *kept], **settings)


def hard_negative(
    *,
    tau: float = 5.0,
    pair_margin: float = 0.2,
    negative_margin: float = 0.2,
    padding: Literal["mask", "zero"] = "mask",
    direction: Literal["above", "below"] = "above",
    init_scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    terms: Any = (),
    **settings: Any,
) -> ContrastiveLoss:
    """CLIP's loss with captions of each picture that are nearly right, and margins to them (`HardNegativeMargin`).

    The loss is called with `negatives=` (B, N, d). Pictures are scored against true captions alone.

    Args:
        tau, pair_margin, negative_margin, padding, direction: of `HardNegativeMargin`.
        init_scale, max_scale, learnable: of the `LogitScale`.
        terms: further terms.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a setting out of its range.

    Paper: Investigating and Mitigating Object Hallucinations in Pretrained Vision-Language (CLIP) Models, arXiv
    2410.03176.
    """
    term = HardNegativeMargin(
        tau=tau, pair_margin=pair_margin, negative_margin=negative_margin, padding=padding, direction=direction
    )
    scale = LogitScale(init_scale, max_scale, learnable=learnable)
    return ContrastiveLoss((Pair(weight=0.5, symmetric=False),), scales=scale, terms=[*terms, term], **settings)


def clip_rocket(
    *,
    n_local: int = 2,
    smoothing: float = 0.1,
    reduction: Literal["mean", "sum"] = "mean",
    init_scale: float = 1 / 0.07,
    local_scale: float = 10.0,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    **settings: Any,
) -> ContrastiveLoss:
    """CLIP rocket's loss: the pair, and all pairings of strong views with augmented texts, on a scale of their own.

    (global + n local) / (1 + n): the weak view and the caption as CLIP compares them, and the mean over the n x n
    pairings of `image_local` with `text_local`, (B, n, d) each, which come from projectors of their own; label
    smoothing is theirs alone. `terms=[CrossModalBarlow()]`, `CrossModalSimSiam` and `CrossModalSwAV` are what the paper
    compares it with. Gradients flow to the views of all processes, where the released code passes none to other
    processes' features.

    Args:
        n_local: strong views a picture; 0 is CLIP's loss.
        smoothing: label smoothing of the local pairings, in [0, 1).
        reduction: "mean" of the two directions, or their "sum", which the paper takes on all but its smallest set.
        init_scale, local_scale: initial logit scales of the pair and of the local pairings.
        max_scale, learnable: of both `LogitScale`s, which never fall below 1, or below where they start.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a negative number of views, or an unknown reduction.

    Paper: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675.

    Examples:
        >>> import torch
        >>> loss = clip_rocket()
        >>> local = torch.randn(2, 8, 2, 16).unbind()  # two strong views, two augmented texts
        >>> output = loss(torch.randn(8, 16), torch.randn(8, 16), image_local=local[0], text_local=local[1])
        >>> sorted(output.terms)
        ['image-text', 'image_local-text_local']
    """
    if n_local < 0:
        raise UsageError(f"n_local must be at least 0 views, got {n_local}")
    check_choice("reduction", reduction, ("mean", "sum"))
    factor = 1 if reduction == "mean" else 2
    scales = {"main": LogitScale(init_scale, max_scale, min=min(1.0, init_scale), learnable=learnable)}
    pairs = [Pair(weight=factor / (1 + n_local))]
    if n_local:
        scales["local"] = LogitScale(local_scale, max_scale, min=min(1.0, local_scale), learnable=learnable)
        weight = factor * n_local / (1 + n_local)
        pairs.append(Pair("image_local", "text_local", weight=weight, scale="local", smoothing=smoothing))
    return ContrastiveLoss(pairs, scales=scales, **settings)


def mammo_clip(
    *,
    i2i: float = 1.0,
    t2t: float = 0.5,
    smoothing: float = 0.0,
    init_scale: float = 1 / 0.07,
    max_scale: float | None = 100.0,
    learnable: bool = True,
    **settings: Any,
) -> ContrastiveLoss:
    """Mammo-CLIP's loss: two pictures and two texts of each study, all pairings across and the two within.

    Called with images and texts (B, 2, d): two views of a breast, findings and impression. Studies that lack a second
    view or text give another augmentation of the one; the same features twice would be a pair that is found by itself.

    Args:
        i2i, t2t: weights of picture with picture and of text with text; 0 leaves one out.
        smoothing: label smoothing of the pairings across, in [0, 1).
        init_scale, max_scale, learnable: of the `LogitScale`, which all pairings share.
        settings: further arguments of `ContrastiveLoss`.

    Raises:
        UsageError: a negative weight.

    Paper: Ghosh et al., "Mammo-CLIP: A Vision Language Foundation Model to Enhance Data Efficiency and Robustness in
    Mammography", arXiv 2405.12255.

    Examples:
        >>> import torch
        >>> output = mammo_clip()(torch.randn(8, 2, 16), torch.randn(8, 2, 16))
        >>> sorted(output.terms)
        ['image-image', 'image-text', 'text-text']
    """
    if min(i2i, t2t) < 0:
        raise UsageError(f"the weights of i2i and t2t must be at least 0, got {i2i} and {t2t}")
    within = (Pair("image", "image", weight=i2i), Pair("text", "text", weight=t2t))
    pairs = (Pair(smoothing=smoothing), *(pair for pair in within if pair.weight))
    return ContrastiveLoss(pairs, scales=LogitScale(init_scale, max_scale, learnable=learnable), **settings)


def _cones(weight: float, radius: float) -> list[EntailmentCone]:
    if weight < 0:
        raise UsageError(f"the weight of entailment must be at least 0, got {weight}")
    return [EntailmentCone(weight, radius=radius)] if weight else []


METHODS: dict[str, Callable[..., ContrastiveLoss]] = {
    "clip": clip,
    "siglip": siglip,
    "euclip": euclip,
    "meru": meru,
    "macl": macl,
    "clip-refine": clip_refine,
    "hard-negatives": hard_negative,
    "clip-rocket": clip_rocket,
    "mammo-clip": mammo_clip,
    "contrastive": ContrastiveLoss,
}
