"""p029 CLIPtrase: self-self attention in the last block, regions from correlation, and a vote inside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.segment import (
    ClusterVote,
    Frame,
    LastBlock,
    Parts,
    SelfSelf,
    Whole,
    parts_of,
    self_cosine,
    without_class_token,
)
from binderclip.segment.parts.context import Context, open_windows, records
from binderclip.studies.harness import Figure, Row, Table, declared_study, one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.tables.scene_attention import attends, attention_rows
from binderclip.studies.protocols.tables.segment_figures import draw_table
from binderclip.studies.protocols.tables.segment_table import protocol, random_gains, scene_set, table_rows

BLOCK = LastBlock(SelfSelf("q+k+v"), residual=True, mlp=True)
N, SEEDS = 25, (20, 21, 22)
TABLE_PROTOCOL = protocol(N)
REWIRED, OURS, NOISY = "rewired (q+k+v)", "CLIPtrase", "CLIPtrase, not denoised"
TOP = 5
MASS = f"share of the {TOP} largest columns"
GLOBAL = f"of the class token's {TOP} patches, found among those columns"


def asked() -> dict[str, Parts]:
    """Name -> parts, the picture whole at 256 px, 16 x 16 patches, for all."""
    whole = Whole()

    def rewired(**changes: Any) -> Parts:
        return parts_of("plain", last_block=BLOCK, resolution=whole, **changes)

    return {
        "plain": parts_of("plain", resolution=whole),
        REWIRED: rewired(),
        OURS: parts_of("cliptrase", resolution=whole),
        NOISY: rewired(relabel=ClusterVote(denoise=False)),
    }


PAIRS = ((REWIRED, "plain"), (OURS, REWIRED), (OURS, "plain"), (OURS, NOISY))


def measure(seed: int) -> list[Row]:
    """The ablation, and how much of each map a few columns hold."""
    return [*table_rows(asked(), seed, against=PAIRS, n=N), *_columns(seed), *attention_rows(seed)]


def _maps(context: Context) -> dict[str, Float[Tensor, "N N"]]:
    """Non-negative maps between patches, before and after; heads averaged."""
    prefix, block = context.prefix, context.tower.blocks[-2]
    query, key, _ = context.qkv(-2)
    raw = self_cosine(context.qkv(-2))
    rewired = SelfSelf("q+k+v")(context.block, context.qkv(-1), context)
    return {
        "attention": block.weights(query, key).mean(1)[0, prefix:, prefix:],
        "rewired attention": rewired.mean(1)[0, prefix:, prefix:],
        "correlation": raw[0, prefix:, prefix:].clamp(min=0),
        "denoised correlation": without_class_token(raw, prefix)[0],
    }


def _columns(seed: int) -> list[Row]:
    from binderclip.data import to_tensor

    model, shares, shared = bundled(), dict[str, list[float]](), []
    for sample in scene_set("scenes", seed, N):
        image = to_tensor(sample.image)[None]
        with one_thread(), torch.no_grad():
            context = open_windows(Frame(model, image, image), image, [(0, 0)], records(ClusterVote()))
            maps = _maps(context)
            own = context.tower.blocks[-2].weights(*context.qkv(-2)[:2]).mean(1)[0, 0, context.prefix :]
        for name, each in maps.items():
            columns = each.sum(0)
            shares.setdefault(name, []).append(float(columns.topk(TOP).values.sum() / columns.sum()))
        largest = maps["attention"].sum(0).topk(TOP).indices.tolist()
        shared.append(len({*largest} & {*own.topk(TOP).indices.tolist()}) / TOP)
    patches = len(maps["attention"])
    rows = [Row(MASS, name, float(np.mean(values))) for name, values in shares.items()]
    return [
        *rows,
        Row(MASS, "all columns alike", TOP / patches),
        Row(GLOBAL, "attention", float(np.mean(shared))),
        Row(GLOBAL, "chance", TOP / patches),
    ]


def null(seed: int) -> list[Row]:
    """Steps that change the scenes at random."""
    return random_gains(PAIRS, seed, N)


def draw(table: Table, figure: Figure) -> None:
    """The table with label maps of the three steps."""
    draw_table(table, figure, shown={name: asked()[name] for name in ("plain", REWIRED, OURS)})


STUDY = declared_study(
    __name__,
    measure,
    draw=draw,
    preconditions=(attends("qq", "kk", "vv"),),
    seeds=SEEDS,
    null=null,
    registered="84a9f24fa9c9",
)
