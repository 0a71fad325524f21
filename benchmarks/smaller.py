"""Smaller models: heads and neurons taken out, tokens pruned, int8, N:M masks, and a forward gradient's memory.

A ViT-B/32 at 224 px with random weights, whose times are those of trained ones, and the bundled `small`. The limit of a
pruned model is its share of the operations, counted; of an N:M mask one pass over its weights.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Row, compare, in_child
from binderclip import load
from binderclip.compress import (
    ClassAttentionPruning,
    MagnitudeScore,
    PruneBudget,
    TokenMerging,
    nm_mask,
    quantize_dynamic,
    remove,
    tower_groups,
)
from binderclip.models.operations import count_operations
from binderclip.models.towers import open_image_tower

PICTURES, WEIGHTS, DEPTHS = 8, 10_000_000, (4, 16)
"""Pictures a batch, weights of a mask, blocks of the chains whose memory is measured."""


def vit(patch: int = 32) -> nn.Module:
    """open_clip's image tower of ViT-B with random weights."""
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model(f"ViT-B-{patch}", pretrained=None).visual.eval()


@torch.no_grad()
def run() -> list[Row]:
    """All rows."""
    pictures = torch.randn(PICTURES, 3, 224, 224)
    return [_half_width(pictures), *_tokens(pictures), *_few_bits(pictures), *_masks(), *_memory()]


def _half_width(pictures: Tensor) -> Row:
    dense = vit()
    half = copy.deepcopy(dense)
    groups = tower_groups(open_image_tower(half))
    remove(half, groups, PruneBudget(amount=0.5).select(MagnitudeScore()(half, groups)))
    ratio = count_operations(lambda: dense(pictures)) / count_operations(lambda: half(pictures))
    return compare(
        "ViT-B/32 with half of its heads and neurons", lambda: half(pictures), lambda: dense(pictures),
        goal="at least 1.7x", target=1.7, note=f"{PICTURES} pictures; {ratio:.2f} times fewer operations",
        peer_name="the whole model",
    )  # fmt: skip


def _tokens(pictures: Tensor) -> list[Row]:
    tower = open_image_tower(vit(16))
    pruners: dict[str, ClassAttentionPruning | TokenMerging] = {
        "ViT-B/16, 70 % of the patches kept at three depths": ClassAttentionPruning(),
        "ViT-B/16, eight pairs of patches merged a block": TokenMerging(8),
    }

    def whole() -> Tensor:
        return tower.project(tower.pool(tower.run(tower.embed(pictures))))

    rows = []
    for name, pruner in pruners.items():
        ratio = 1 / pruner.run(tower, tower.embed(pictures)).flops_ratio()
        note = f"{PICTURES} pictures; {ratio:.2f} times fewer operations in the blocks"
        ours, target = partial(pruner.embed_images, tower, pictures), 0.9 * ratio
        goal = "at least 0.9 of the ratio of operations"
        rows.append(compare(name, ours, whole, repeats=5, goal=goal, target=target, note=note, peer_name="all patches"))
    return rows


def _few_bits(pictures: Tensor) -> list[Row]:
    small = load("small")
    towers: dict[str, tuple[nn.Module, Tensor]] = {
        "ViT-B/32": (vit(), pictures),
        "small, pictures": (small.visual, torch.randn(PICTURES, 3, *small.preprocess.size)),
    }
    rows = []
    for name, (tower, batch) in towers.items():
        ours = partial(quantize_dynamic(copy.deepcopy(tower)), batch)
        peers = {
            "float32": partial(tower, batch),
            "bfloat16": partial(copy.deepcopy(tower).bfloat16(), batch.bfloat16()),
        }
        note = f"{PICTURES} pictures, random pixels"
        rows += [
            compare(f"{name} in int8", ours, peer, repeats=5, goal="faster", target=1.0, note=note, peer_name=peer_name)
            for peer_name, peer in peers.items()
        ]
    return rows


def _masks() -> list[Row]:
    weight = torch.randn(2500, WEIGHTS // 2500)

    def top_k() -> Tensor:
        # the released implementations' way: the smallest of every four by sorting
        groups = weight.abs().view(-1, 4)
        index = groups.argsort(dim=1)[:, :2]
        return torch.ones_like(groups).scatter_(1, index, 0).view_as(weight)

    def one_pass() -> Tensor:
        return weight.abs() > 1.0

    mask = "2:4 mask of ten million weights"
    return [
        compare(mask, lambda: nm_mask(weight, 2, 4), top_k, goal="at least 3x", target=3.0, peer_name="argsort"),
        compare(mask, lambda: nm_mask(weight, 2, 4), one_pass, speedup=False, peer_name="one pass over the weights"),
    ]


PEAK = """
import json, sys
from benchmarks.smaller import peak_megabytes
print(json.dumps({"megabytes": peak_megabytes(sys.argv[1], int(sys.argv[2]))}))
"""


def peak_megabytes(kind: str, depth: int) -> float:
    """Of this process beyond what it held before: `inference`, `forward` gradients or `backward` of a chain."""
    from binderclip.optim import ForwardGradient

    torch.manual_seed(0)
    torch.set_num_threads(1)
    width, batch = 512, 4096
    blocks = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)] + [nn.Linear(width, 10)]
    model = ForwardGradient(blocks, [nn.Linear(width, 10) for _ in range(depth)], per_sample=False, chunk=batch // 4)
    x, y = torch.randn(batch, width), torch.randint(10, (batch,))
    chain = nn.Sequential(*blocks)
    if kind == "forward":
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    def step() -> None:
        if kind == "inference":
            with torch.no_grad():
                F.cross_entropy(chain(x), y)
        elif kind == "backward":
            F.cross_entropy(chain(x), y).backward()
        else:
            model.step((x, y), backward=lambda part: part.backward())

    with torch.enable_grad():
        before = _high_water()
        step()
    return (_high_water() - before) / 1024


def _high_water() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _memory() -> list[Row]:
    rows = []
    for depth in DEPTHS:
        peaks = {k: in_child(PEAK, k, str(depth))["megabytes"] for k in ("forward", "inference", "backward")}
        ratio = peaks["forward"] / peaks["inference"]
        name = f"forward gradient of {depth} blocks, peak memory"
        note = f"a quarter of the batch at a time, beyond model and batch; backpropagation: {peaks['backward']:.0f} MB"
        figures = (peaks["forward"], peaks["inference"], "MB", ratio, ratio, ratio)
        rows.append(Row(name, *figures, goal="at most 1.2x", met=ratio <= 1.2, peer_name="inference", note=note))
    return rows
