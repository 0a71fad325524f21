"""Training with loading: a recipe on a picture pack against open_clip's loop behind a DataLoader."""

from __future__ import annotations

import io
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import Row, row
from benchmarks.peers import BETAS, EPS, OpenClipTraining
from binderclip import train
from binderclip.data import ImageTextDataset, load_data
from binderclip.models.files.devices import emulated
from binderclip.train import Recipe
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.architecture import build_model
from binderclip.train.recipe.registry import STAGES, register
from binderclip.train.stages.contrastive import ContrastiveStep, build_loss

LR = 5e-4
WORKERS = 2
VIT: dict[str, Any] = {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 2, 2, 1], "width": 32}
SIZE, CONTEXT = 64, 16


def run(*, resnet_steps: int = 5, vit_steps: int = 3, batch_size: int = 128, repeats: int = 3) -> list[Row]:
    """The 64 px recipe with a ResNet and with a ViT, whole and gain by gain.

    Args:
        resnet_steps, vit_steps: of a run.
        batch_size: pictures a step.
        repeats: rounds; each runs every variant once, and ratios are taken within a round.
    """
    with tempfile.TemporaryDirectory() as scratch:
        resnet = _rounds(Path(scratch) / "resnet", RESNET, VARIANTS, resnet_steps, batch_size, repeats)
        some = {
            name: VARIANTS[name] for name in ("ours", "ours, bfloat16", "in memory", "open_clip", "open_clip, bfloat16")
        }
        vit = _rounds(Path(scratch) / "vit", VIT, some, vit_steps, batch_size, repeats)
    fill = _cache_seconds(resnet_steps * batch_size)
    rows = [*_against_peer(resnet, "ResNet"), *_against_peer(vit, "ViT")]
    for name, without in GAINS.items():
        note = f"filling the cache takes {fill:.2f} s once, and is not counted" if without == "streamed" else ""
        best = "ours, bfloat16" if name == "bfloat16" else "ours"
        rows.append(row(f"ResNet, gain of {name}", resnet[best], resnet[without], unit="s", note=note,
                        peer_name="the same without"))  # fmt: skip
    return rows


PRECISION = "float32" if emulated(torch.bfloat16, torch.device("cpu")) else "bfloat16"
"""The faster one of this processor."""
BEST: dict[str, Any] = {"precision": PRECISION, "channels_last": True}
# Recipe entries of our runs; of the peer's the precision.
VARIANTS: dict[str, dict[str, Any] | str] = {
    "ours": BEST,
    "ours, float32": {**BEST, "precision": "float32"},
    "ours, bfloat16": {**BEST, "precision": "bfloat16"},
    "ours, channels first": {**BEST, "channels_last": False},
    "streamed": {**BEST, "cache_mb": 0, "workers": WORKERS},
    "in memory": {**BEST, "kind": "in-memory"},
    "open_clip": "float32",
    "open_clip, bfloat16": "bfloat16",
}
GAINS = {
    "bfloat16": "ours, float32",
    "channels_last": "ours, channels first",
    "the picture cache": "streamed",
}


def _against_peer(seconds: dict[str, list[float]], name: str) -> list[Row]:
    ours = seconds["ours"]
    loader = f"behind a DataLoader with {WORKERS} workers"
    return [
        row(
            f"{name}, loading and training",
            ours,
            seconds["open_clip"],
            unit="s",
            goal="at least 1.2x",
            target=1.2,
            peer_name=f"open_clip, float32, {loader}",
            note=f"ours has everything on: {PRECISION}, channels_last, the picture cache. Its augmentation turns, "
            "jitters and paints backgrounds; open_clip's default only crops",
        ),
        row(
            f"{name}, loading and training, both bfloat16",
            seconds["ours, bfloat16"],
            seconds["open_clip, bfloat16"],
            unit="s",
            peer_name=f"open_clip, bfloat16, {loader}",
        ),
        row(
            f"{name}, share of the same steps on batches made beforehand",
            ours,
            seconds["in memory"],
            unit="s",
            goal="at least 0.9",
            target=0.9,
            peer_name="without loading",
        ),
    ]


def _rounds(
    folder: Path,
    vision: dict[str, Any],
    variants: dict[str, dict[str, Any] | str],
    steps: int,
    batch_size: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of the steps alone (first batch and start of the workers included), by variant and round."""
    # what differs in nothing is run once
    names = [name for name in variants if variants[name] != BEST or name == "ours"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peer_seconds(vision, "float32", 1, batch_size)
    our_seconds(vision, BEST, 1, batch_size, folder / "warm-up")
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            entries = variants[name]
            if isinstance(entries, str):
                spent = peer_seconds(vision, entries, steps, batch_size)
            else:
                spent = our_seconds(vision, entries, steps, batch_size, folder / f"{turn}-{names.index(name)}")
            seconds[name].append(spent)
    return {name: seconds[name if seconds.get(name) else "ours"] for name in variants}


def our_seconds(vision: dict[str, Any], entries: dict[str, Any], steps: int, batch_size: int, out: Path) -> float:
    """Seconds of the steps of `train.run`."""
    recipe = Recipe.from_dict(recipe_of(vision, steps * batch_size, batch_size, entries))
    return train.run(recipe, out=out, progress=False).stages[0].seconds


def _cache_seconds(pictures: int) -> float:
    data = load_data("openclipart", "train", mode="RGBA").subset(range(pictures))
    start = time.perf_counter()
    data.pixels(SIZE, mode="RGBA")
    return time.perf_counter() - start


def recipe_of(vision: dict[str, Any], samples: int, batch_size: int, entries: dict[str, Any]) -> dict[str, Any]:
    """The recipe as a document."""
    text = {"width": 192, "heads": 3, "layers": 3}
    return {
        "name": "bench",
        "data": [{"name": "openclipart", "limit": samples}],
        "samples": samples,
        "batch_size": batch_size,
        "lr": LR,
        "optimizer": {"name": "adamw", "betas": list(BETAS), "eps": EPS},
        "clip": {"name": "norm", "max_norm": 1.0},
        "checkpoint_every": 1000,
        "model": {"arch": "open_clip", "embed_dim": 256, "vision": vision, "text": text, "context": CONTEXT},
        **entries,
    }


@register(STAGES, "in-memory")
def in_memory(context: StageContext) -> None:
    """The contrastive stage on batches that were made beforehand: what training costs without loading."""
    module = ContrastiveStep(context.model, build_loss(context))
    ready = list(islice(context.batches(), context.steps))
    context.fit(module, ready)


class _Pictures(Dataset[tuple[Tensor, Tensor]]):
    """open_clip's `CsvDataset` on encoded pictures in memory instead of files, with the captions tokenised beforehand.

    Both save the peer some work.
    """

    def __init__(self, data: ImageTextDataset, ids: Tensor) -> None:
        self.images = [data.encoded(index) for index in range(len(data))]
        self.ids = ids
        self.transform = image_transform_v2(PreprocessCfg(size=SIZE), is_train=True)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(io.BytesIO(self.images[index]))), self.ids[index]


def peer_seconds(vision: dict[str, Any], precision: str, steps: int, batch_size: int) -> float:
    """Seconds of open_clip's loop, workers started within."""
    data = load_data("openclipart", "train").subset(range(steps * batch_size))
    recipe = Recipe.from_dict(recipe_of(vision, steps * batch_size, batch_size, {}))
    model = build_model(recipe.model, seed=0, captions=lambda: data.captions)
    pictures = _Pictures(data, model.tokenize(data.captions).ids)
    loader = DataLoader(pictures, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True)
    training = OpenClipTraining(model.backbone, precision=precision, lr=LR)
    start = time.perf_counter()
    training.epoch(loader, steps * batch_size)
    return time.perf_counter() - start
