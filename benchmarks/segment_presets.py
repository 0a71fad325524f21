"""Segmentation presets against the bare tower on the same windows, shared passes, precision and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, compare, in_child
from binderclip.segment import PRESETS, Segmenter, Whole, parts_of
from binderclip.segment.parts.context import Frame
from binderclip.segment.segmenter import run_windows

LABELS = [
    "a flag", "a heart", "a folder", "a clock", "a tree", "a house", "a cat", "a dog", "the moon", "a jigsaw piece",
    "a woman", "an apple", "a car", "a flower", "a cloud",
]  # fmt: skip
#: Presets that only rewire the last block, and those that read other layers or regions as well.
ATTENTION = ("plain", "value", "maskclip", "sclip", "clearclip", "kk", "vv")
MORE = ("cliptrase", "itaclip", "cliper", "decomposition")


NOTES = {
    "cliper": "by a profile of ViT-B/16, of what it takes beyond the tower a third are matrix products of the last "
    "block for the other layers' inputs, a quarter the attention maps of all blocks written out, which the fused "
    "kernel of the bare tower never does, and the rest balancing and contrasting their sum, map by map in the cache",
}


def build_vit() -> Any:
    """A CLIP of ViT-B/16 shapes with random weights."""
    from binderclip.models import build

    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
        },
        name="ViT-B/16",
    )
    return model.eval().requires_grad_(False)


def segmenter(model: Any, preset: str, size: int) -> Segmenter:
    """A preset on one whole window of the given side without other views, so that presets differ by nothing else."""
    return Segmenter(model, replace(parts_of(preset), resolution=Whole(size), views=None))


def run(*, repeats: int = 5) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    from binderclip.models import load

    for model, size in ((load("small").requires_grad_(False), 256), (build_vit(), 336)):
        rows += _presets(model, size, repeats)
    return [*rows, *_half(repeats), *_memory()]


def _bare(model: Any, pixels: Tensor) -> Any:
    def forward() -> Tensor:
        with torch.no_grad():
            tower = model.image_tower
            return tower.run(tower.embed(model.preprocess.normalize(pixels))).x

    return forward


def _presets(model: Any, size: int, repeats: int) -> list[Row]:
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    bare = _bare(model, pixels)
    known = [name for name in (*ATTENTION, *MORE) if name in PRESETS]
    built = {name: segmenter(model, name, size) for name in known}
    layout = Whole(size).layout((size, size), patch=model.image_tower.patch, native=size)
    texts = {name: each.bind(LABELS) for name, each in built.items()}

    def scored(names: Sequence[str]) -> Any:
        def all_of() -> list[Tensor]:
            with torch.no_grad():
                frame = Frame(model, pixels, pixels)
                return run_windows(frame, layout, [built[n] for n in names], [texts[n] for n in names])

        return all_of

    rows = []
    for name in known:
        target = 1.15 if name in ATTENTION else 1.3
        rows.append(
            compare(
                f"{model.name}, {size} px: {name}", scored([name]), bare, repeats=repeats, speedup=False,
                goal=f"at most {target}x the bare tower", target=target, peer_name="bare tower",
                note=NOTES.get(name, ""),
            )
        )  # fmt: skip
    ten = [name for name in ATTENTION if name in PRESETS]
    rows.append(
        compare(
            f"{model.name}, {size} px: {len(ten)} attention presets together", scored(ten), bare, repeats=repeats,
            speedup=False, goal="at most 2x the bare tower", target=2.0, peer_name="bare tower",
        )
    )  # fmt: skip
    return rows


def _half(repeats: int) -> list[Row]:
    """bfloat16 against float32 on made scenes, with the change of mIoU."""
    from binderclip.data import LabelledScenes
    from binderclip.models import load
    from binderclip.segment import measure_segmenters

    exact, half = load("small"), load("small", dtype="bfloat16")
    data = LabelledScenes("scenes", 12, seed=3)
    found = {
        name: measure_segmenters({"value": Segmenter(model)}, data).scores["value"].miou
        for name, model in (("float32", exact), ("bfloat16", half))
    }
    image = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    one, other = Segmenter(half), Segmenter(exact)
    note = f"mIoU on 12 scenes {found['float32']:.4f} in float32, {found['bfloat16']:.4f} in bfloat16"
    return [
        compare(
            "small: value preset in bfloat16", lambda: one(image, LABELS), lambda: other(image, LABELS),
            repeats=repeats, peer_name="float32", note=note,
        )
    ]  # fmt: skip


def peak(side: int, labels: int) -> int:
    """Peak memory of this process beyond what it holds with the model loaded, in bytes; needs Linux's /proc."""
    from binderclip.models import load

    each = Segmenter(load("small"))
    each(torch.rand(3, 64, 64), ["a cat", "a dog"])
    image, names = torch.rand(3, side * 3 // 4, side), [f"thing number {i}" for i in range(labels)]
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
    before = _kilobytes("VmRSS")
    each(image, names)
    return max(0, _kilobytes("VmHWM") - before) * 1024


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _memory() -> list[Row]:
    code = (
        "import json, sys; from benchmarks.segment_presets import peak; "
        "print(json.dumps({'bytes': peak(int(sys.argv[1]), int(sys.argv[2]))}))"
    )
    rows = []
    for side in (500, 1000, 2000):
        used = in_child(code, str(side), "150")["bytes"] / 1e9
        size = f"{side} x {side * 3 // 4}"
        # All class scores at the picture's own size is what is avoided.
        whole = 150 * side * (side * 3 // 4) * 4 / 1e9
        rows.append(
            Row(f"memory beyond the model, {size} pixels, 150 labels", used, whole, "GB", used / whole, used / whole,
                used / whole, goal="below 2 GB", met=used < 2, peer_name="all scores at full size")
        )  # fmt: skip
    return rows
