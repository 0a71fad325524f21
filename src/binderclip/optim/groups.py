"""Parameter groups: who gets weight decay, and at which share of the learning rate."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["layer_index", "layerwise_lr_groups", "param_groups"]

_BLOCK = re.compile(r"^(?P<stack>(?:.*\.)?(?:resblocks|blocks|layers|layer|h))\.(?P<index>\d+)\.")
# Inputs of a transformer stack: they lie below its first block and get the smallest rate under layer decay.
_BELOW = re.compile(
    r"(conv1|patch_embed|token_embedding|embeddings|positional_embedding|pos_embed|class_embedding|"
    r"cls_token|reg_token|ln_pre|pre_layrnorm|norm_pre)"
)
# What follows a stack: final norms, pooling by attention, projections and heads.
_ABOVE = re.compile(
    r"(^|\.)(ln_post|ln_final|norm|fc_norm|post_layernorm|final_layer_norm|attn_pool\w*|proj|head|classifier|"
    r"visual_projection|text_projection|logit_scale|logit_bias)(\.|$)"
)
# Inputs that are learned tables, one row a position or a special token, whatever their number of axes.
_TABLES = re.compile(r"(pos_embed|cls_token|reg_token|class_embedding|positional_embedding|position_embedding)")


def layer_index(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Depth of each parameter and the depth of its tower's top: `{name: (depth, top)}`.

    Block i of a stack has depth i + 1, what feeds the stack has depth 0, what follows it (final norm, projection,
    logit scale) sits at the top. Image and text stacks of different length keep their own tops.

    Args:
        names: parameter names as `named_parameters` gives them.
    """
    names = list(names)
    # A convolutional patch embedding has stages and blocks of its own; all of it lies below the stack.
    matches = {name: None if "patch_embed" in name else _BLOCK.match(name) for name in names}
    length: dict[str, int] = {}
    for match in matches.values():
        if match:
            length[match["stack"]] = max(length.get(match["stack"], 0), int(match["index"]) + 1)
    depths = {}
    for name, match in matches.items():
        if match:
            depths[name] = (int(match["index"]) + 1, length[match["stack"]] + 1)
            continue
        top = _top_of(name, length)
        depths[name] = (0 if _BELOW.search(name) else top, top)
    return depths


def _top_of(name: str, length: Mapping[str, int]) -> int:
    """The top of the stack that shares the longest name prefix with `name`; among equals, of the outermost stack."""
    if not length:
        return 1

    def closeness(stack: str) -> tuple[int, int]:
        same = 0
        for left, right in zip(name.split("."), stack.split("."), strict=False):
            if left != right:
                break
            same += 1
        return same, -stack.count(".")

    return length[max(length, key=closeness)] + 1


def param_groups(
    model: nn.Module,
    weight_decay: float = 0.0,
    *,
    lr: float | None = None,
    lr_scale: Mapping[str, float] | None = None,
    layer_decay: float | Mapping[str, float] = 1.0,
    no_decay: Iterable[str] = (),
    freeze: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and learning rate, ready for any `torch.optim` optimizer.

    Parameters of fewer than two dimensions (biases, norms, the logit scale) get no weight decay. Each group carries
    `lr_scale`, the share of the base rate, and `names`; a tied parameter appears once, under its first name.

    Args:
        model: the module to train.
        weight_decay: decay of everything else.
        lr: base learning rate; where given, each group's `lr` is `lr * lr_scale`.
        lr_scale: multipliers by name pattern, `{"visual.*": 0.1}`; shell wildcards, the first match counts.
        layer_decay: multiplier per layer below the top of its tower (BEiT, arXiv 2106.08254); 1 is off. By name
            pattern, `{"visual.*": 0.9, "text.*": 0.75}`, towers have factors of their own (EVA-CLIP, arXiv 2402.04252);
            the first match counts, what no pattern matches has none.
        no_decay: further name patterns without weight decay.
        freeze: name patterns that stay out of every group.

    Raises:
        UsageError: a pattern that matches no parameter, a layer decay outside (0, 1], or nothing left to train.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    scales, skip, frozen = dict(lr_scale or {}), tuple(no_decay), tuple(freeze)
    layers = dict(layer_decay) if isinstance(layer_decay, Mapping) else {"*": layer_decay}
    if wrong := [factor for factor in layers.values() if not 0 < factor <= 1]:
        raise UsageError(f"layer_decay must lie in (0, 1], got {wrong[0]}")
    for pattern in (*scales, *(pattern for pattern in layers if pattern != "*"), *skip, *frozen):
        if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in named):
            raise UsageError(f"no trainable parameter is named like {pattern!r}; names look like {_examples(named)}")
    depth = layer_index([name for name, _ in named]) if any(factor != 1.0 for factor in layers.values()) else {}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in frozen):
            continue
        plain = parameter.ndim < 2 or any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
        scale = next((s for pattern, s in scales.items() if fnmatch.fnmatchcase(name, pattern)), 1.0)
        if depth:
            at, top = depth[name]
            factor = next((f for pattern, f in layers.items() if fnmatch.fnmatchcase(name, pattern)), 1.0)
            scale *= factor ** (top - at)
        decay = 0.0 if plain else weight_decay
        group = groups.setdefault((decay, scale), {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UsageError("nothing to train: every parameter is frozen")
    if lr is not None:
        for group in groups.values():
            group["lr"] = lr * group["lr_scale"]
    return list(groups.values())


def layerwise_lr_groups(
    model: nn.Module,
    lr: float,
    decay: float = 0.65,
    *,
    weight_decay: float = 0.05,
    freeze: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Parameter groups for fine-tuning a transformer: the deeper a layer lies, the smaller its rate.

    Of L blocks, what follows them (final norm, projection, head) learns at `lr`, block l = 1..L at
    `lr * decay^(L + 1 - l)`, and what feeds them (patch embedding, positions, special tokens, the norm before) at
    `lr * decay^(L + 1)`. Tensors of one axis, positions and special tokens get no weight decay.

    Args:
        model: its trainable parameters are grouped, each once; open_clip's, timm's and Hugging Face's names are known.
        lr: of the top.
        decay: factor a layer, in (0, 1]; 1 is one rate for all.
        weight_decay: of matrices and convolutions.
        freeze: name patterns that stay out of every group.

    Raises:
        UsageError: a parameter whose layer its name does not tell, or `decay` outside (0, 1].

    Paper: CLIP Itself is a Strong Fine-tuner (arXiv 2212.06138); the decay is BEiT's (arXiv 2106.08254).

    Examples:
        >>> vit = timm.create_model("vit_tiny_patch16_224")                                # doctest: +SKIP
        >>> torch.optim.AdamW(layerwise_lr_groups(vit, lr=6e-4, decay=0.6))                # doctest: +SKIP
    """
    check_number("decay", decay, above=0, most=1)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    unknown = [n for n, _ in named if not (_BLOCK.match(n) or _BELOW.search(n) or _ABOVE.search(n))]
    if unknown:
        raise UsageError(
            f"the layer of {unknown[0]!r} is unknown ({len(unknown)} such): known are numbered blocks, what feeds them "
            "(patch_embed, conv1, embeddings, ...) and what follows them (norm, proj, head, ...); "
            "param_groups(lr_scale=...) takes rates by name"
        )
    tables = [name for name, _ in named if _TABLES.search(name)]
    return param_groups(model, weight_decay, lr=lr, layer_decay=decay, no_decay=tables, freeze=freeze)


def _examples(named: list[tuple[str, Any]]) -> str:
    return ", ".join(repr(name) for name, _ in named[:3]) or "(none: nothing requires a gradient)"
