"""Take groups out for good: smaller tensors, the same logits as with the groups masked."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from binderclip.compress.weights.groups import PruneGroups, check_keep
from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.encoder import PictureModel
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.layers.pruned import (
    block_widths,
    keep_blocks,
    keep_entries,
    keep_heads,
    keep_neurons,
    widths_record,
)

__all__ = ["RemovedGroups", "remove"]


@dataclass(frozen=True)
class RemovedGroups:
    """What a removal did.

    Attributes:
        parameters_before, parameters_after: numbers in the model's parameters.
        groups_before, groups_after: of the layers that were named.
    """

    parameters_before: int
    parameters_after: int
    groups_before: int
    groups_after: int


def remove(model: nn.Module, groups: Sequence[PruneGroups], keep: Mapping[str, Bool[Tensor, "G"]]) -> RemovedGroups:
    """Take groups out of a model, in place: slices of its tensors stay, and it computes less.

    Parameters become new ones, so optimizers are made afterwards, and groups are found anew. An `ImageTextModel` keeps
    its new widths in its configuration (`model_cfg.pruned`), with which `save` and `load` work as before.

    Args:
        model: an `ImageTextModel` of open_clip's kind, or any module that the groups are of.
        groups: all groups that `keep` names.
        keep: layer's name -> True for groups that stay; layers that are not named stay whole.

    Raises:
        UsageError: masks that do not fit, or a layer or tower of which nothing would stay.
        NotSupported: a model of another library or kind whose folder could not say how narrow it became.
    """
    check_keep(groups, keep)
    _check_something_stays(groups, keep)
    check_recordable(model)
    before, chosen = _parameters(model), [one for one in groups if one.name in keep]
    for one in chosen:
        if one.kind != "block":
            _narrow(one, keep[one.name].cpu())
    for owner, kept in _kept_blocks(chosen, keep).items():
        keep_blocks(owner, kept)
    if isinstance(model, ImageTextModel):
        record_widths(model)
    counts = sum(len(one) for one in chosen), sum(int(keep[one.name].sum()) for one in chosen)
    return RemovedGroups(before, _parameters(model), *counts)


def _parameters(model: nn.Module) -> int:
    """Numbers in a module's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def _narrow(one: PruneGroups, keep: Bool[Tensor, "G"]) -> None:
    kept = torch.nonzero(keep).flatten().tolist()
    if one.owner is not None and one.kind == "head":
        keep_heads(one.owner, kept)
    elif one.owner is not None and one.kind == "neuron":
        keep_neurons(one.owner, one.members[0].index[keep].flatten().sort().values.tolist())
    else:
        for member in one.members:
            keep_entries(member.module, member.name, member.dim, member.index[keep].flatten().sort().values)


def _kept_blocks(groups: Sequence[PruneGroups], keep: Mapping[str, Tensor]) -> dict[nn.Module, list[int]]:
    """Of each tower of which blocks go, the indices of those that stay."""
    gone: dict[nn.Module, set[int]] = {}
    for one in groups:
        if one.kind == "block" and one.owner is not None and not bool(keep[one.name].all()):
            gone.setdefault(one.owner, set()).add(one.layer)
    return {
        owner: [layer for layer in range(len(block_widths(owner))) if layer not in layers]
        for owner, layers in gone.items()
    }


def _check_something_stays(groups: Sequence[PruneGroups], keep: Mapping[str, Tensor]) -> None:
    for one in groups:
        if one.kind != "block" and one.name in keep and not bool(keep[one.name].any()):
            raise UsageError(f"{one.name}: at least one {one.kind} must stay")
    for owner, kept in _kept_blocks([one for one in groups if one.name in keep], keep).items():
        if not kept:
            raise UsageError(f"no block of {type(owner).__name__} would stay: at least one must")


def check_recordable(model: nn.Module) -> None:
    """Refuse models whose folder could not say how narrow they became.

    Raises:
        NotSupported: see `remove`.
    """
    if isinstance(model, ImageTextModel):
        check_open_clip_kind(model)
        if model.concepts is not None:
            raise NotSupported(
                f"{model.name} has a classifier of concepts that was fitted to its own features, so nothing can be "
                "taken out: compress another model, such as small, or give it fewer bits alone (--bits 8 or 4)"
            )
    elif isinstance(model, PictureModel):
        raise NotSupported(
            f"{type(model).__name__} cannot be saved with fewer groups; removal is for image-text models and for plain "
            "modules (pass model.backbone)"
        )


def check_open_clip_kind(model: ImageTextModel) -> None:
    """Refuse models whose folder has no words for layers that were changed.

    Raises:
        NotSupported: a model of another library, or one without its configuration.
    """
    if model.kind != "open_clip" or "model_cfg" not in model.config:
        raise NotSupported(
            f"{model.name} is of kind {model.kind}, whose folders cannot say how narrow a block is or how many bits it "
            "has: masks work (compress.masked), removal and fewer bits are for models of open_clip's kind"
        )


def record_widths(model: ImageTextModel) -> None:
    """Bring the model's configuration up to date with the widths that it has, and forget its opened towers."""
    from binderclip.models.image_text.open_clip import construct

    config = copy.deepcopy(dict(model.config["model_cfg"]))
    config.pop("pruned", None)
    model._cache.clear()
    with torch.device("meta"):
        dense = construct(copy.deepcopy(config))
    record = widths_record(model.backbone, dense)
    plain = _in_open_clip(config, record, model.backbone) if record else None
    model.config["model_cfg"] = plain or {**config, **({"pruned": record} if record else {})}


def _in_open_clip(config: dict[str, Any], record: Mapping[str, Any], backbone: nn.Module) -> dict[str, Any] | None:
    """The configuration by which open_clip alone builds these widths; None where it has no words for them.

    It has one width of the MLP and a number of blocks for each of its own transformers, and as many heads as their
    width holds.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    from binderclip.models.image_text.open_clip import construct

    own = copy.deepcopy(config)
    for side, entry in record.items():
        part, default = own[f"{side}_cfg"], CLIPVisionCfg() if side == "vision" else CLIPTextCfg()
        blocks = entry.get("blocks")
        if not blocks or "channels" in entry or any(block != blocks[0] for block in blocks):
            return None
        if part.get("timm_model_name") or part.get("hf_model_name"):
            return None
        width, neurons = part.get("width", default.width), blocks[0]["neurons"]
        ratio = neurons / width
        while int(width * ratio) < neurons:  # as open_clip rounds
            ratio = math.nextafter(ratio, math.inf)
        part["layers"], part["mlp_ratio"] = len(blocks), ratio
    try:
        with torch.device("meta"):
            built = construct(copy.deepcopy(own))
    except UsageError:
        return None
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    return own if shapes == {name: tensor.shape for name, tensor in backbone.state_dict().items()} else None
