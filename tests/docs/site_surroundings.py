"""What the pages take as given: a folder of example pictures under the names they use, and a few objects."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from binderclip.data import open_image

Given = dict[str, Any]


def _photo(name: str, target: str, side: int = 192) -> Any:
    picture = open_image(Path("examples/photos") / f"{name}.jpg")
    picture.thumbnail((side, side))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(target)
    return picture


def _classes(target: str, count: int = 10) -> tuple[list[str], list[str]]:
    """Class folders under another name, and their paths and labels."""
    paths, labels = [], []
    for source in sorted(Path("examples/drawings").rglob("*.png")):
        if int(source.stem.split("-")[1]) < count:
            place = Path(target, source.parent.name, source.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
            paths.append(str(place))
            labels.append(source.parent.name)
    return paths, labels


def _flat(source: str, target: str) -> None:
    shutil.copytree(Path("examples") / source, target, dirs_exist_ok=True)


def _load() -> Any:
    from binderclip.models import load

    return load("small")


def anomalies() -> Given:
    import binderclip

    _flat("wall/test/defect", "parts")
    _flat("wall/train/good", "good-parts")
    read = [open_image(path) for path in sorted(Path("good-parts").iterdir())[:2]]
    return {"binderclip": binderclip, "good_pictures": read, "pictures": [open_image("parts/00.png")]}


def attention_heads() -> Given:
    _flat("photos", "holiday")
    Path("words.txt").write_text("red\nblue\na metal surface\nround things\nan animal\nthe sky\nfood\na building\n")
    return {"paths": _classes("parts", 2)[0]}


def attribution() -> Given:
    pictures = [_photo("cat", "chelsea.png").resize((128, 128)), _photo("coffee", "photo.jpg").resize((128, 128))]
    net = nn.Sequential()
    net.add_module("layer1", nn.Conv2d(3, 4, 3, stride=2))
    net.add_module("layer4", nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    net.classes = ["cat", "dog", "fox", "hare", "owl"]
    masks = torch.zeros(2, *_load().preprocess(pictures).shape[-2:], dtype=torch.bool)
    masks[:, 12:40, 12:40] = True
    return {"images": pictures, "masks": masks, "net": net.eval(), "x": torch.rand(1, 3, 64, 64)}


def best_classifier() -> Given:
    _classes("parts", 6)
    _flat("photos", "new")
    _photo("cat", "new.jpg")
    return {}


def choose_your_clipping() -> Given:
    from binderclip.optim import ClipLog, ZClip

    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    log = ClipLog(ZClip(max_grad_norm=None), out="runs/mine")
    log.attach(optimizer, model.named_parameters())
    for step in range(60):
        optimizer.zero_grad()
        (model(torch.ones(8, 4)).sum() * (50 if step == 45 else 1)).backward()
        optimizer.step()
    log.close()
    return {}


def segmentation() -> Given:
    picture = _photo("coffee", "street.jpg", 128)
    _photo("cat", "photo.jpg", 320)
    _photo("cat", "photos/cat.jpg", 96)
    _flat("wall/test/defect", "parts")
    _flat("wall/train/good", "good-parts")
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, :20], masks[1, 25:] = True, True
    labels = torch.randint(0, 3, (32, 32), generator=torch.Generator().manual_seed(0))
    folder = Path("VOC2012")
    folder.mkdir()
    (folder / "classes.txt").write_text("".join(f"thing {number}\n" for number in range(10)))
    for number in range(2):
        for kind, name in (("JPEGImages", f"{number}.jpg"), ("SegmentationClass", f"{number}.png")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            value = np.full((96, 96), number + 7, dtype=np.uint8)
            image = open_image("photos/cat.jpg").resize((96, 96)) if kind == "JPEGImages" else Image.fromarray(value)
            image.save(folder / kind / name)
    return {
        "picture": picture, "pictures": [picture], "pairs": [(labels, labels)],
        "predicted_masks": masks, "true_masks": masks,
    }  # fmt: skip


def several_labels() -> Given:
    paths = _classes("holiday", 3)[0]
    _photo("cat", "new.jpg")
    return {"counts": [float(number % 4) for number in range(len(paths))]}


def visual_prompts() -> Given:
    picture = _photo("cat", "street.jpg")
    _photo("coffee", "shelf.jpg", 256)
    Path("boxes.csv").write_text("10,10,90,90,cat\n60,20,150,110,wall\n")
    mask = np.zeros((picture.height, picture.width), dtype=bool)
    mask[20:80, 30:100] = True
    paths, labels = _classes("parts", 2)
    return {"model": _load(), "mask": mask, "paths": paths, "labels": labels, "names": sorted(set(labels))}


def words_and_adapters() -> Given:
    paths, labels = _classes("parts", 1)
    weight = nn.Parameter(torch.ones(3))
    return {
        "paths": paths, "labels": labels, "parameters": [weight], "optimizer": torch.optim.SGD([weight], lr=0.1),
        "task_loss": lambda: (weight - 2).square().sum(), "stay_loss": lambda: weight.square().sum(),
    }  # fmt: skip


def your_data() -> Given:
    from binderclip.data import load_data

    rows = load_data("examples/captioned")
    Path("parquet").mkdir()
    Path("shards").mkdir()
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def png(picture: Any) -> bytes:
        held = io.BytesIO()
        picture.save(held, "PNG")
        return held.getvalue()

    table = {"image": [png(rows[n].image) for n in range(6)], "caption": [rows[n].caption for n in range(6)]}
    pq.write_table(pa.table(table), "parquet/train-00000-of-00001.parquet")
    return {}


def zero_shot() -> Given:
    _photo("cat", "a.jpg")
    _photo("coffee", "b.jpg")
    _flat("photos", "pets")
    return {}


GIVEN: dict[str, Callable[[], Given]] = {
    "anomalies.md": anomalies,
    "attention-heads.md": attention_heads,
    "attribution.md": attribution,
    "best-classifier.md": best_classifier,
    "choose-your-clipping.md": choose_your_clipping,
    "segmentation.md": segmentation,
    "several-labels-and-order.md": several_labels,
    "visual-prompts.md": visual_prompts,
    "words-and-adapters.md": words_and_adapters,
    "your-data.md": your_data,
    "zero-shot.md": zero_shot,
}
"""Page -> what makes its files in the current folder and gives the names that its Python blocks use."""
