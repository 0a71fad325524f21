"""The authors' weights of LPIPS and ST-LPIPS, under their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from binderclip.errors import CheckpointError
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.quality.trunks import WIDTHS, Net, Variant

LAYERS = 5
_WEIGHT = r"lin(\d)\.model\.1\.weight"  # behind a dropout
_NETS: tuple[Net, ...] = ("alex", "vgg")


def widths_of(state: Mapping[str, Tensor], path: str | Path) -> tuple[int, ...]:
    """Channels of the layers whose weights a file of the authors holds.

    Raises:
        CheckpointError: it holds no such weights, or those of another network (SqueezeNet has seven layers).
    """
    shapes = {int(m[1]): value.shape for name, value in state.items() if (m := re.fullmatch(_WEIGHT, name))}
    if sorted(shapes) != list(range(LAYERS)) or any(len(s) != 4 or s[0] != 1 for s in shapes.values()):
        layers = f"the layers {', '.join(map(str, sorted(shapes)))}" if shapes else "no lin0.model.1.weight"
        raise CheckpointError(
            f"{path} cannot be read as weights of LPIPS: five layers lin0 to lin4, and it has {layers}"
        )
    return tuple(int(shapes[layer][1]) for layer in range(LAYERS))


def build_of(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The arguments of the `LPIPS` to which a file of the authors belongs, read from names and shapes.

    A blur is told by its buffer `filt`: shift-tolerant networks have one behind AlexNet's first convolution, and none
    of VGG is antialiased alone.

    Raises:
        CheckpointError: as `widths_of`, or a network that is neither AlexNet nor VGG-16.
    """
    widths = widths_of(state, path)
    convolutions = sorted({name for name in state if re.fullmatch(r"net\.slice\d\.\d+\.weight", name)})
    # 13 convolutions or 5; without a trunk in the file the widths tell.
    net = next((n for n in _NETS if widths == WIDTHS[n]), "vgg" if len(convolutions) == 13 else "alex")
    if not convolutions and widths != WIDTHS[net]:
        raise CheckpointError(f"{path}: layers of {widths} channels are neither AlexNet's nor VGG-16's")
    blurs = {name: value for name, value in state.items() if re.fullmatch(r"net\.slice\d\.\d+\.filt", name)}
    variant: Variant = "vanilla"
    if blurs:
        variant = "shift-tolerant" if net == "vgg" or "net.slice1.1.filt" in blurs else "antialiased"
    blur = next(iter(blurs.values())).shape[-1] if blurs else 3
    return {"net": net, "variant": variant, "widths": widths, "blur": int(blur)}


def fill_released(metric: Any, state: Mapping[str, Tensor], path: str | Path, trunk: str | Path | None) -> None:
    """Copy the authors' weights into an `LPIPS` that `build_of` describes.

    Args:
        metric: whose trunk and weights are overwritten.
        state: of the authors' file.
        path: that file, for errors.
        trunk: torchvision's weights of AlexNet or VGG-16, for a file of linear weights alone.

    Raises:
        CheckpointError: a trunk that is missing or of another network.
    """
    own = metric.state_dict()
    name = f"LPIPS ({metric.net}, {metric.variant})"
    rows = [
        Rename(_WEIGHT, r"weights.\1", lambda value: value[0, :, 0, 0]),
        Rename(r"lins\..*|scaling_layer\..*|net\..*\.filt", None),  # the same again, and constants
    ]
    places = _places(metric.trunk)
    if any(one.startswith("net.") for one in state):
        # Names are slice{stage}.{index in the whole sequence}.
        rows.append(Rename(r"net\.slice\d\.(\d+)\.(weight|bias)", lambda m: places.get(m[1], "?") + m[2]))
        copy_renamed(own, state, NameTable(name, rows), path)
        return
    if trunk is None:
        raise CheckpointError(
            f"{path} holds the linear weights alone: trunk= names torchvision's weights of {metric.net} "
            f"({'alexnet-owt-7be5be79.pth' if metric.net == 'alex' else 'vgg16-397923af.pth'})"
        )
    heads = {key: value for key, value in own.items() if key.startswith("weights.")}
    copy_renamed(heads, state, NameTable(name, rows), path)
    backbone = {key: value for key, value in own.items() if not key.startswith("weights.")}
    theirs = [
        Rename(r"classifier\..*", None),
        Rename(r"features\.(\d+)\.(weight|bias)", lambda m: places.get(m[1], "?") + m[2]),
    ]
    copy_renamed(backbone, read_released(trunk), NameTable(f"the trunk of {name}", theirs), trunk)


def _places(trunk: nn.Module) -> dict[str, str]:
    """Index of a layer in the authors' sequence -> the beginning of our name for it."""
    places: dict[str, str] = {}
    stages: Any = trunk.get_submodule("stages")
    for stage, layers in enumerate(stages):
        for layer in range(len(layers)):
            places[str(len(places))] = f"trunk.stages.{stage}.{layer}."
    return places
