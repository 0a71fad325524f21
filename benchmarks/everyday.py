"""The default model `everyday` beside `small`, whose towers it holds with a second network: time, memory, loading.

Both sides are the code that the verbs run (`load_encoder`), with as many threads as torch takes. Times are processor
seconds of one thread where it says so, which a busy machine changes little.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from benchmarks.encode import folder
from benchmarks.harness import Row, in_child, row
from binderclip.data import load_data
from binderclip.models import ImageTextModel, load_encoder

LABELS = ("cat", "dog", "bird", "car", "tree", "house", "person", "food", "flower", "street")
GOAL = 1.6
FILES = 96
SIZES = ((640, 480), (1920, 1280), (4000, 3000))

CHILD = """
import json, sys, time
import torch
from PIL import Image
from binderclip.models import load_encoder
def kilobytes(name):
    # not getrusage: its maximum starts from that of the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))
torch.set_num_threads(1)
load_encoder("small-b")  # imports what any bundled model needs
before, start = kilobytes("VmRSS"), time.process_time()
model = load_encoder(sys.argv[1])
loaded = time.process_time() - start
resident = kilobytes("VmRSS") - before
model.encode_image([Image.new("RGB", (640, 480))] * 16)
model.encode_text("a dog")
print(json.dumps({"load": loaded, "resident": resident, "peak": kilobytes("VmHWM") - before}))
"""


def run(*, repeats: int = 9) -> list[Row]:
    """One picture from its bytes to its labels at three sizes, the networks alone, a folder, memory and loading."""
    models = load_encoder("everyday"), load_encoder("small")
    return [*_picture_rows(models, repeats), *_network_rows(models, repeats), _folder_row(models), *_child_rows()]


def _picture_rows(models: tuple[ImageTextModel, ImageTextModel], repeats: int) -> list[Row]:
    """A photograph as a camera's JPEG, 10 labels, all steps of `classify` but starting the program."""
    photograph = next(iter(load_data("photographs"))).image.convert("RGB")
    banks = [model.text_bank(list(LABELS), "simple") for model in models]
    rows = []
    for size in SIZES:
        buffer = io.BytesIO()
        photograph.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()

        def classify(side: int, data: bytes = data) -> None:
            found = models[side].encode_files([data])
            models[side].classify_features(found.features, banks[side])

        rows.append(
            _paired(
                f"one picture of {size[0]} x {size[1]}, from the file to its labels",
                lambda: classify(0),
                lambda: classify(1),
                repeats,
                note="opened, resized, encoded, compared with 10 labels encoded before; processor seconds, one thread",
            )
        )
    return rows


def _network_rows(models: tuple[ImageTextModel, ImageTextModel], repeats: int) -> list[Row]:
    pixels = [
        torch.rand(16, *model.preprocess.size, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
        for model in models
    ]

    def forward(side: int, count: int) -> None:
        with torch.inference_mode():
            models[side].encode_pixels(pixels[side][:count])

    return [
        _paired(
            f"the networks alone, {count} at once",
            lambda count=count: forward(0, count),  # type: ignore[misc]
            lambda count=count: forward(1, count),  # type: ignore[misc]
            repeats,
            goal="",
            note="pixels in memory; processor seconds, one thread",
        )
        for count in (1, 16)
    ]


def _folder_row(models: tuple[ImageTextModel, ImageTextModel], pairs: int = 3) -> Row:
    paths = folder()[:FILES]
    seconds: list[list[float]] = [[], []]
    for turn in range(pairs):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            models[side].encode_image(paths)
            seconds[side].append(time.perf_counter() - start)
    rates = [FILES / sorted(values)[len(values) // 2] for values in seconds]
    return row(
        f"encode_image of {FILES} files",
        *seconds,
        unit="s",
        speedup=False,
        goal=f"at most {GOAL}x",
        target=GOAL,
        note=f"{rates[0]:.0f} and {rates[1]:.0f} images/s, {torch.get_num_threads()} threads, load average of the "
        f"machine {os.getloadavg()[0]:.1f}; the files of the benchmark of encode_image",
        peer_name="small",
    )


def _child_rows(repeats: int = 3) -> list[Row]:
    """Loading and memory, in fresh processes that have imported what any bundled model needs."""
    found: dict[str, list[dict[str, Any]]] = {"everyday": [], "small": []}
    for _ in range(repeats):
        for name, children in found.items():
            children.append(in_child(CHILD, name))
    load = [[child["load"] for child in children] for children in found.values()]
    rows = [row("load_encoder", *load, speedup=False, note="processor seconds, one thread", peer_name="small")]
    for key, name, note in (
        ("resident", "memory of the loaded model", "resident, beyond that of a process with small-b loaded"),
        ("peak", "peak memory of encoding 16 pictures of 640 x 480", "beyond a process with small-b loaded"),
    ):
        megabytes = [[child[key] * 1024 / 1e6 for child in children] for children in found.values()]
        ratios = [a / b for a, b in zip(*megabytes, strict=True)]
        middle = [sorted(values)[repeats // 2] for values in (*megabytes, ratios)]
        rows.append(
            Row(name, middle[0], middle[1], "MB", middle[2], min(ratios), max(ratios), note=note, peer_name="small")
        )
    return rows


def _paired(
    name: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    repeats: int,
    *,
    goal: str = f"at most {GOAL}x",
    note: str,
) -> Row:
    """A row of processor seconds of all threads, taken in alternation with one thread for the arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds: list[list[float]] = [[], []]
        for turn in range(-1, repeats):  # the first round warms up
            for side, call in ((0, ours), (1, peer)) if turn % 2 else ((1, peer), (0, ours)):
                start = time.process_time()
                call()
                if turn >= 0:
                    seconds[side].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return row(name, *seconds, speedup=False, goal=goal, target=GOAL if goal else None, note=note, peer_name="small")
