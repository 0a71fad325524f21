"""Mean ablation: what an image embedding is worth once chosen components say the same for every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.decompose.decomposition import Decomposition

Head = tuple[int, int]


def mean_ablate(
    decomposition: Decomposition,
    heads: Sequence[Head] = (),
    *,
    mlps: Sequence[int] | bool = (),
    rest: Sequence[str] = (),
    reference: Decomposition | None = None,
) -> Float[Tensor, "N E"]:
    """Replace components of image embeddings by their means over a data set.

    What a component says beyond its mean is lost, everything else stays; accuracy with the result is the component's
    direct effect. Terms are averaged in the scale of unit embeddings.

    Paper: Interpreting CLIP's Image Representation via Text-Based Decomposition (arXiv 2310.05916).

    Args:
        found: embeddings split by "head" (for `heads`) or by anything (for `mlps` and `rest`).
        heads: (block, head) pairs; blocks may count from the end.
        mlps: blocks whose MLP is replaced; True for all.
        rest: names of `found.rest` such as "stem" or "attention" (of the blocks left out).
        reference: whose means are used, split in the same way; None for those of `found` itself.

    Returns:
        Features for `model.classify_features` and every zero-shot or few-shot head; of about unit length.

    Raises:
        UsageError: no such block, head or term, or a reference split in another way.

    Examples:
        >>> found = decompose_image_embedding(model, images)                     # doctest: +SKIP
        >>> features = mean_ablate(found, early_heads(found), mlps=True)         # doctest: +SKIP
        >>> model.classify_features(features, model.text_bank(["cat", "dog"]))   # doctest: +SKIP
    """
    means = decomposition if reference is None else reference
    if (means.by, means.layers, means.depth, means.texts) != (
        decomposition.by,
        decomposition.layers,
        decomposition.depth,
        decomposition.texts,
    ):
        raise UsageError("reference is split in another way than found: give both the same by, layers and onto")
    own, mean = decomposition.unit(), means.unit()
    result = own.total()
    for layer, head in _checked(decomposition, heads):
        result = result + mean.values[:, layer, head].mean(0) - own.values[:, layer, head]
    for block in _blocks(decomposition, mlps):
        result = result + mean.mlps[:, block].mean(0) - own.mlps[:, block]
    for name in dict.fromkeys(rest):
        if name not in decomposition.rest:
            raise UsageError(f"rest={name!r} is none of the terms {', '.join(decomposition.rest)}")
        if name == "mlp" and _blocks(decomposition, mlps):
            raise UsageError("rest='mlp' is the sum of all MLPs: leave out mlps, or give mlps=True alone")
        result = result + mean.rest[name].mean(0) - own.rest[name]
    return result


def late_blocks(depth: int) -> int:
    """How many blocks from the end count as late: the paper's 4, but at most a third of the tower, rounded up.

    The paper keeps the last 4 of 12, 24 or 32 blocks, where direct effects live; of a tower of 4 blocks that would be
    all of them.
    """
    return min(4, math.ceil(depth / 3))


def early_heads(decomposition: Decomposition, keep: int | None = None) -> list[Head]:
    """All heads of the blocks before the last `keep`, for `mean_ablate`.

    Args:
        found: split by head.
        keep: blocks from the end that are left alone; None for `late_blocks`.

    Raises:
        UsageError: another split, or `keep` out of range.
    """
    if decomposition.by != "head":
        raise UsageError(f"heads need by='head', this decomposition is by {decomposition.by!r}")
    last = late_blocks(decomposition.depth) if keep is None else keep
    if not 0 <= last <= decomposition.depth:
        raise UsageError(f"keep={keep} is not in 0..{decomposition.depth}, the blocks of the tower")
    return [
        (b, h)
        for b in decomposition.layers
        if b < decomposition.depth - last
        for h in range(decomposition.values.shape[2])
    ]


def _checked(decomposition: Decomposition, heads: Sequence[Head]) -> list[Head]:
    """Places in `values`, each once."""
    if not heads:
        return []
    if decomposition.by != "head":
        raise UsageError(f"heads need by='head', this decomposition is by {decomposition.by!r}")
    count = decomposition.values.shape[2]
    for layer, head in heads:
        if not 0 <= head < count:
            raise UsageError(f"head {head} of block {layer}: a block has {count} heads")
    return list(dict.fromkeys((decomposition.place(layer), head) for layer, head in heads))


def _blocks(decomposition: Decomposition, mlps: Sequence[int] | bool) -> list[int]:
    if isinstance(mlps, bool):
        return list(range(decomposition.depth)) if mlps else []
    for block in mlps:
        if not -decomposition.depth <= block < decomposition.depth:
            raise UsageError(f"mlps names block {block}, but the tower has {decomposition.depth}")
    return list(dict.fromkeys(block % decomposition.depth for block in mlps))
