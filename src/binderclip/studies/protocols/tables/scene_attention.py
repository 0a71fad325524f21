"""Where attention falls on scenes of the segmentation table: on the own class, or on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.evaluate import last_attention
from binderclip.segment import Frame, PatchWeights, Whole
from binderclip.segment.parts.context import Context, open_windows, records
from binderclip.segment.parts.last_block import AttentionMap
from binderclip.segment.parts.resolution import resized
from binderclip.studies.harness.criteria import Precondition
from binderclip.studies.harness.quantities import combined, value_of
from binderclip.studies.harness.table import Row
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import cluttered
from binderclip.studies.protocols.tables.segment_table import SCENES, SETS, SIZE, scene_set

MASS = "attention on the own class"
EVEN = "all patches alike"
DENSITY = "attention on objects over their share"
LAST = "AUROC of the last block's products for pairs in one object"
_truth: dict[bytes, Tensor] = {}


def remember(name: str, seed: int, n: int = SCENES) -> None:
    """Let `true_regions` know the scenes of a set and seed."""
    for sample in scene_set(name, seed, n):
        _truth[to_tensor(sample.image).numpy().tobytes()] = sample.labels


def true_regions(image: Float[Tensor, "3 H W"]) -> Int[Tensor, "H W"]:
    """A region source that knows the scene: its classes, the ground being one of them.

    Raises:
        UsageError: a picture of no set that was remembered.
    """
    labels = _truth.get(image.cpu().numpy().tobytes())
    if labels is None:
        raise UsageError("true_regions: a picture of no scene; say remember(set, seed, n) first")
    return labels + 1


def attention_rows(seed: int, *, n: int = 16, model: str = "small") -> list[Row]:
    """Rows `LAST`: how well products in the last block tell patches of one object from others (AUROC); and `DENSITY`.

    Args:
        seed: of the scenes, two to four objects of 256 px.
        n: number of scenes.
        model: a bundled model.
    """
    found = cluttered(seed, n, objects=(2, 4), size=SIZE)
    with one_thread(), torch.no_grad():
        last = last_attention(bundled(model), found.images, found.visible, size=SIZE)
    rows = [Row(LAST, name, value) for name, value in last.auroc.items()]
    return [*rows, Row(DENSITY, "class token", last.density)]


def attends(*names: str, bound: float = 0.55) -> Precondition:
    """What a study of the last block's attention needs: these products tell objects apart, on average.

    Args:
        names: of `qq`, `kk`, `vv` (self-self cosines) and `qk` (the block's own attention).
        bound: of the mean AUROC; 0.5 is no better than chance.
    """
    return Precondition(
        f"the last block's {', '.join(names)} tell patches of one object from others (AUROC above {bound:g})",
        combined("mean", *(value_of(LAST, name) for name in names)),
        bound,
    )


LOOKS = Precondition(
    "the class token attends to objects at least a tenth more than to the ground (ratio)",
    value_of(DENSITY, "class token"),
    1.1,
)
"""What a study of the class token's attention needs."""


def mass_rows(
    maps: Mapping[str, AttentionMap], seed: int, *, sets: Sequence[str] = SETS, n: int, model: str = "small"
) -> list[Row]:
    """Rows `MASS`: the share of object patches' attention on patches of their class, and that of all patches alike.

    Args:
        maps: name -> attention map of the last block, on the whole scene at once.
        seed: of the scenes.
        sets: of `SETS`.
        n: number of scenes.
        model: a bundled model.
    """
    rows = []
    with one_thread():
        for name in sets:
            found: dict[str, list[float]] = {each: [] for each in (*maps, EVEN)}
            for sample in scene_set(name, seed, n):
                context = whole_scene(bundled(model), to_tensor(sample.image)[None], maps)
                ids = cells(sample.labels, context.grid)
                found[EVEN].append(own_share(torch.ones(len(ids), len(ids)), ids))
                for each, attention in maps.items():
                    weights, grid = weights_of(attention, context)
                    found[each].append(own_share(weights, cells(sample.labels, grid)))
            rows += [Row(MASS, each, float(torch.tensor(v).nanmean()), name) for each, v in found.items()]
    return rows


@torch.no_grad()
def outside_mass_rows(
    name: str, attention: Callable[[Tensor], tuple[Tensor, tuple[int, int]]], seed: int, *, n: int
) -> list[Row]:
    """Rows `MASS` of another model's attention, as in `mass_rows`.

    Args:
        name: of the attention.
        attention: from a picture (1, 3, H, W) to weights (N, N) and their grid.
        seed: of the scenes.
        n: number of scenes of each set.
    """
    rows = []
    for each in SETS:
        found: dict[str, list[float]] = {name: [], EVEN: []}
        for sample in scene_set(each, seed, n):
            with one_thread():
                weights, grid = attention(to_tensor(sample.image)[None])
            ids = cells(sample.labels, grid)
            found[name].append(own_share(weights, ids))
            found[EVEN].append(own_share(torch.ones_like(weights), ids))
        rows += [Row(MASS, key, float(torch.tensor(values).nanmean()), each) for key, values in found.items()]
    return rows


def structured(name: str, what: str) -> Precondition:
    """What a study of an attention map needs: patches of objects look at their own class more than at all alike.

    Args:
        name: of the map in rows `MASS`.
        what: the map in words.
    """
    return Precondition(
        f"{what} looks at a patch's own class a tenth more than all patches alike (ratio)",
        value_of(MASS, name, *SETS) / value_of(MASS, EVEN, *SETS),
        1.1,
    )


@torch.no_grad()
def whole_scene(model: object, picture: Float[Tensor, "1 3 H W"], maps: Mapping[str, AttentionMap]) -> Context:
    """The scene as one window, with what the maps want recorded."""
    tower = model.image_tower  # type: ignore[attr-defined]
    size = (picture.shape[-2], picture.shape[-1])
    native = min(tower.image_size)
    pixels = resized(picture, Whole().layout(size, patch=tower.patch, native=native).size)
    return open_windows(Frame(model, picture, pixels), pixels, [(0, 0)], records(*maps.values()))


@torch.no_grad()
def weights_of(attention: AttentionMap, context: Context) -> tuple[Float[Tensor, "N N"], tuple[int, int]]:
    """A map of the last block between patches, heads averaged, and its grid, which may be that of another tower."""
    found = attention(context.block, context.qkv(-1), context)
    if found is None:
        return torch.eye(context.grid[0] * context.grid[1]), context.grid
    if isinstance(found, PatchWeights):
        return found.weights[0].float().mean(0), found.grid
    return found[0, :, context.prefix :, context.prefix :].float().mean(0), context.grid


def cells(labels: Int[Tensor, "H W"], grid: tuple[int, int]) -> Int[Tensor, "N"]:
    """The label in the middle of every cell of a grid, from 1; 0 for the ground."""
    drawn = F.interpolate(labels[None, None].float() + 1, size=grid, mode="nearest-exact")
    return drawn.long().flatten()


def own_share(weights: Float[Tensor, "N N"], ids: Int[Tensor, "N"]) -> float:
    """Share of the weights of object patches (ids above 0) that is on patches with the same id; nan without any."""
    inside = ids > 0
    same = ids[inside][:, None] == ids[None]
    rows = weights[inside]
    return float(((rows * same).sum(1) / rows.sum(1)).mean())
