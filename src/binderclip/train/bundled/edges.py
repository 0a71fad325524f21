"""The recipe of an edge network: a slim DexiNed, trained on composed scenes whose edges are known.

`train_edges("my-edges")` trains, measures on scenes of drawings and grounds that it never learned from, and writes a
folder for `binderclip edges --method network --model my-edges`; some ten minutes on one idle core. Nothing is shipped:
after 600 steps its ODS on ten scenes was 0.70, that of Canny 0.68, its AP 0.62 and Canny's 0.65.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.evaluate import EdgeScores, edge_f_measure
from binderclip.fit import fit
from binderclip.losses import BalancedEdgeBCE, TracingLoss
from binderclip.losses.dense.edges import DEXINED_WEIGHTS
from binderclip.train.bundled.data.batches import Numbered
from binderclip.train.bundled.data.edge_scenes import EdgeScenes, degraded, edge_scenes, named_photographs
from binderclip.vision import DexiNed, EdgeNetwork, canny_levels, save_edge_network, sobel_map, thin_edges

__all__ = [
    "edge_figures",
    "peers",
    "train_edges",
    "train_network",
    "training_scenes",
    "unseen_edge_scenes",
    "write_edges",
]

WIDTH, BETWEEN = 4, 4
SIDE, CROP = 128, 64
"""Of scenes and of the squares that are learned from, in pixels."""
DRAWN = ("plain", "gradient", "noise", "texture")
TEXTURES, PHOTOGRAPHS = ("grass.png", "gravel.png"), ("coffee.png", "flower.jpg", "china.jpg", "motorcycle_left.png")
"""Grounds that are learned from: all of a texture is no edge, of the others the flat parts."""
HELD_TEXTURES = ("brick.png", "moon.png")
SCENES, STEPS, BATCH, RATE = 1200, 6000, 8, 3e-3
TRACING = 2.0
MEASURED, MEASURED_SIDE = 36, 128
BLURS, LEVELS = (1.0, 2.0, 3.0), 19
"""Of Canny and Sobel, in pixels; and thresholds of a curve."""
LIMITS = "it learned from drawings on made grounds: nobody has measured it on photographs"

Detector = Callable[[Float[Tensor, "3 S S"]], Float[Tensor, "S S"]]


def training_scenes(seed: int = 0, n: int = SCENES) -> EdgeScenes:
    """The scenes that are learned from, not yet distorted: half on drawn grounds, the rest on photographs.

    Args:
        seed: of the scenes.
        n: their number, at least 4.
    """
    quarter = n // 4
    textures, photographs = (named_photographs(names) for names in (TEXTURES, PHOTOGRAPHS))
    parts = [
        edge_scenes(seed, quarter, SIDE, split="train", grounds=DRAWN),
        edge_scenes(seed + 1, quarter, SIDE, split="train", grounds=DRAWN, options={"camouflage": 0.35}),
        edge_scenes(seed + 2, quarter, SIDE, split="train", grounds=[textures]),
        edge_scenes(seed + 3, n - 3 * quarter, SIDE, split="train", grounds=[photographs], photograph=True),
    ]
    return EdgeScenes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("images", "edges", "counted")))


def unseen_edge_scenes(
    seed: int = 900, n: int = MEASURED, side: int = MEASURED_SIDE, *, split: str = "test"
) -> EdgeScenes:
    """Scenes to measure on: drawings never learned from, half on drawn grounds and half on other textures, distorted.

    Args:
        seed, n, side: as in `data.scenes`.
        split: of the packs.
    """
    grounds: tuple[list[object], ...] = (list(DRAWN), [named_photographs(HELD_TEXTURES)])
    halves = (n // 2, n - n // 2)
    parts = [
        edge_scenes(seed + k, count, side, split=split, grounds=ground)
        for k, (count, ground) in enumerate(zip(halves, grounds, strict=True))
    ]
    whole = EdgeScenes(*(torch.cat([getattr(part, name) for part in parts]) for name in ("images", "edges", "counted")))
    return degraded(whole, seed)


@torch.no_grad()
def new_network(seed: int = 0) -> DexiNed:
    """The network before its training, so begun that it learns in few steps.

    Each side map goes through a single channel and its ReLU; of a slim network that channel often dies at once, and the
    map with it. Here it starts above 0, is doubled by interpolation, and the fused map is the mean of the six.

    Args:
        seed: of all other weights.
    """
    torch.manual_seed(seed)
    network = DexiNed(WIDTH, between=BETWEEN)
    for k in range(1, 7):
        single, _, doubled = list(getattr(network, f"up_block_{k}").features)[-3:]
        torch.nn.init.constant_(single.bias, 1.0)
        size = doubled.weight.shape[-1]
        rise = 1 - (torch.arange(size) - (size - 1) / 2).abs() / (size / 2 + 0.5)
        kernel = torch.outer(rise, rise)
        doubled.weight.copy_((4 * kernel / kernel.sum())[None, None])  # of the pixels it makes, a quarter sees each tap
        torch.nn.init.constant_(doubled.bias, -2.0)
    torch.nn.init.constant_(cast(Tensor, network.block_cat["conv"].weight), 1 / 6)
    return network


def train_network(
    made: EdgeScenes, *, steps: int = STEPS, seed: int = 0, checkpoint: str | Path | None = None
) -> DexiNed:
    """The network, trained on random squares of the scenes, each distorted anew.

    Args:
        made: from `training_scenes`.
        steps: of Adam.
        seed: of weights, squares and distortions.
        checkpoint: a folder to resume from.
    """
    network = new_network(seed)
    balanced, tracing = BalancedEdgeBCE(map_weights=DEXINED_WEIGHTS), TracingLoss(tracing=TRACING, texture=0.0)

    def batch(number: int) -> EdgeScenes:
        return degraded(_squares(made, number, seed), seed * 1_000_003 + number)

    def step(part: EdgeScenes) -> Tensor:
        logits, target = network(part.images), part.edges.float()
        # Both are means over the pixels: the balanced cross-entropy of all maps, the tracing of the fused one.
        return (balanced(logits, target, part.counted) + tracing(logits[:, -1:], target) / CROP**2) / len(part)

    network.train()
    fit(
        step, network, Numbered(batch), steps=steps, lr=RATE, optimizer="adam", warmup=50, clip=5.0,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )  # fmt: skip
    return network.eval()


def _squares(made: EdgeScenes, number: int, seed: int) -> EdgeScenes:
    """Batch `number`: squares of random scenes, mirrored and turned."""
    rng = np.random.default_rng([seed, number])
    parts: dict[str, list[Tensor]] = {"images": [], "edges": [], "counted": []}
    for row in rng.integers(0, len(made), BATCH).tolist():
        top, left = rng.integers(0, made.images.shape[-1] - CROP + 1, 2).tolist()
        turns, mirror = int(rng.integers(4)), rng.random() < 0.5
        for name, kept in parts.items():
            square = getattr(made, name)[row][..., top : top + CROP, left : left + CROP].rot90(turns, (-2, -1))
            kept.append(square.flip(-1) if mirror else square)
    return EdgeScenes(*(torch.stack(kept) for kept in parts.values()))


def train_edges(target: str | Path) -> Path:
    """Train, measure and write the folder.

    Args:
        target: the new folder; its name is that of the weights. A run that was interrupted goes on from
            `TARGET-training` beside it.
    """
    target = Path(target)
    network = train_network(training_scenes(), checkpoint=target.with_name(f"{target.name}-training"))
    return write_edges(network, target)


def write_edges(network: DexiNed, target: str | Path) -> Path:
    """Measure a trained network, choose its threshold, and write folder and card.

    The threshold is that of the best F on scenes of the validation split, so that the figures are of scenes on which
    nothing was chosen.

    Args:
        network: from `train_network`.
        target: the folder.
    """
    target, network = Path(target), network.half().float()  # as its file holds it
    aside = unseen_edge_scenes(700, 12, split="val")
    chosen = edge_f_measure(_by_network(network)(aside.images), aside.edges, thresholds=LEVELS).ods_threshold
    figures = edge_figures({target.name: _by_network(network), **peers()})
    card = {
        "name": target.name,
        "summary": "finds edges of drawings on texture and under noise; a slim DexiNed",
        "recipe": "binderclip.train.bundled.edges.train_edges",
        "how": f"DexiNed of width {WIDTH}, {BETWEEN} channels between; {SCENES} composed scenes of the bundled picture "
        f"packs (training split) on made grounds and on photographs of scikit-image and scikit-learn, {STEPS} steps of "
        f"{BATCH} squares of {CROP} px, each distorted anew; weights in 16 bits.",
        "unit": f"{MEASURED} scenes of {MEASURED_SIDE} px of the packs' test split, half on made grounds and half on "
        f"{' and '.join(HELD_TEXTURES)}, two in three distorted; maps thinned, tolerance 0.0075 of the diagonal; of "
        "Canny and Sobel the best of three blurs on the very scenes",
        "figures": figures,
        "limits": LIMITS,
    }
    return save_edge_network(network, target, threshold=chosen, card=card, dtype="float16")


def peers() -> dict[str, Callable[[Tensor], list[Tensor]]]:
    """What the network is measured against: Canny and Sobel at three blurs, and a DexiNed before its training."""
    torch.manual_seed(1)
    untrained = DexiNed().eval()
    detectors: dict[str, Callable[[Tensor], list[Tensor]]] = {"DexiNed, untrained": _by_network(untrained)}
    for sigma in BLURS:
        detectors[f"Canny, blur {sigma:g}"] = partial(_each, partial(canny_levels, sigma=sigma))
        detectors[f"Sobel, blur {sigma:g}"] = partial(_thinned, partial(sobel_map, sigma=sigma))
    return detectors


def _each(detector: Detector, images: Float[Tensor, "N 3 S S"]) -> list[Float[Tensor, "S S"]]:
    return [detector(image) for image in images]


def _thinned(detector: Detector, images: Float[Tensor, "N 3 S S"]) -> list[Float[Tensor, "S S"]]:
    return [thin_edges(detector(image), border=0).clamp(0, 1) for image in images]


def _by_network(network: DexiNed) -> Callable[[Tensor], list[Tensor]]:
    return partial(_thinned, EdgeNetwork(network.eval()))


def edge_figures(
    detectors: Mapping[str, Callable[[Float[Tensor, "N 3 S S"]], Sequence[Float[Tensor, "S S"]]]],
    scenes: EdgeScenes | None = None,
) -> dict[str, dict[str, float]]:
    """ODS, OIS and AP of detectors on the held-out scenes; of one at several blurs the best alone.

    Args:
        detectors: name -> thin maps of pictures; names that are alike up to a comma and a blur are of one detector.
        scenes: others than `unseen_edge_scenes()`.
    """
    scenes = unseen_edge_scenes() if scenes is None else scenes
    best: dict[str, tuple[str, EdgeScores]] = {}
    for name, detector in detectors.items():
        scores = edge_f_measure(detector(scenes.images), scenes.edges, thresholds=LEVELS)
        kind = name.split(", blur")[0]
        if kind not in best or scores.ods > best[kind][1].ods:
            best[kind] = (name, scores)
    return {
        name: {"ODS": round(one.ods, 3), "OIS": round(one.ois, 3), "AP": round(one.average_precision, 3)}
        for name, one in best.values()
    }
