"""The figures on the cards of `small-dino` and `small-sam`, and how a finished run becomes the bundled folder.

`ship("runs/small-dino", ".../bundled/small-dino")` writes the eight-bit folder, which takes the convolutions from
`small`, and measures what it wrote. Objects are drawings of the test split; photographs behind them are those that
training cropped its backgrounds from, as there are no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.data.sets.packs import TRAINING_PACKS, pack_hash
from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.documents import json_text, parse_json
from binderclip.errors import CheckpointError
from binderclip.evaluate.dense.clicks import click_figures
from binderclip.evaluate.dense.patch_affinity import patch_affinity
from binderclip.files import write_whole
from binderclip.models import load, load_vision
from binderclip.models.files.folders import compact_folder, folder_kind
from binderclip.segment.promptable import PromptableSegmenter, PromptModel

__all__ = ["affinity_figures", "held_out_scenes", "prompt_figures", "ship", "value_features"]

SEEDS = (1000, 1001, 1002)
BACKGROUNDS = {
    "painted backgrounds": ("plain", "gradient", "noise", "texture"),
    "photographs behind": ("photo",),
}


def held_out_scenes(seed: int, count: int, where: str, *, size: int = 128) -> Scenes:
    """Scenes of 2 to 4 drawings of the test split that may hide each other.

    Args:
        seed: of the scenes.
        count: of them.
        where: key of `BACKGROUNDS`.
        size: side in pixels.
    """
    return scenes(
        seed, count, size, vocabulary=vocabulary("captions", split="test"), objects=(2, 4), area=(0.03, 0.2),
        occlusion=0.4, background=list(BACKGROUNDS[where]),
    )  # fmt: skip


@torch.no_grad()
def value_features(images: Float[Tensor, "N 3 H W"], *, model: str = "small", size: int = 256) -> Tensor:
    """Values of the last attention of an image-text model (MaskCLIP's features), on the grid of `size` pixels."""
    values = load(model)
    tower, pixels = values.image_tower, values.preprocess(images, size=size)
    tokens = tower.value_path(tower.run(tower.embed(pixels), stop=-1))
    return tokens.patches.mT.unflatten(2, tower.grid_of(pixels))


@torch.no_grad()
def affinity_figures(
    features: Mapping[str, Callable[[Float[Tensor, "N 3 H W"]], Tensor]], *, count: int = 60
) -> dict[str, dict[str, float]]:
    """Same-object average precision of patches in percent: means over three seeds of `count` scenes each.

    Args:
        features: name -> images to maps of their features; all on one grid, or figures cannot be compared.
        count: scenes of each seed.
    """
    figures: dict[str, dict[str, float]] = {}
    for where in BACKGROUNDS:
        every: dict[str, list[float]] = {}
        for seed in SEEDS:
            made = held_out_scenes(seed, count, where)
            for name, make in features.items():
                affinity = patch_affinity(make(made.images), made.visible)
                every.setdefault(name, []).append(affinity.precision)
                every.setdefault(f"{name}, among objects", []).append(affinity.among_objects)
            every.setdefault("chance", []).append(affinity.chance)
        figures[where] = {name: _percent(values) for name, values in every.items()}
    return figures


def prompt_figures(segmenter: PromptableSegmenter, *, count: int = 20) -> dict[str, dict[str, float]]:
    """Mean IoU in percent after 1 to 5 clicks and for the exact box, over three seeds of `count` scenes each."""
    figures = {}
    for where in BACKGROUNDS:
        summaries = [click_figures(segmenter, held_out_scenes(seed, count, where)).summary() for seed in SEEDS]
        figures[where] = {name.replace("/", "_"): _percent([one[name] for one in summaries]) for name in summaries[0]}
    return figures


def _percent(values: list[float]) -> float:
    return round(100 * math.fsum(values) / len(values), 1)


def ship(run: str | Path, target: str | Path, *, machine: str = "one CPU core") -> Path:
    """Write the bundled folder of a finished run of the recipe `small-dino` or `small-sam`, figures included.

    Args:
        run: a run folder of `binderclip train`.
        target: the new folder; its name is the model's.
        machine: what the run's seconds were measured on.

    Raises:
        CheckpointError: `run` is no such run, or its convolutions are not those of `small`.
    """
    run, target = Path(run), Path(target)
    kind = folder_kind(run / "model")
    try:
        summary = parse_json((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run} is not a finished run: it has no summary.json") from error
    card = {"name": target.name, **ABOUT[str(kind)], **_made(summary, machine)}
    compact_folder(run, target, card=card, borrow="small")
    if kind == "vision":
        tower = load_vision(target)
        untrained, start = (load_vision(run / "stages" / name) for name in ("start", "00-slow-features"))
        figures = affinity_figures(
            {
                target.name: tower.patch_features,
                "slow features alone": start.patch_features,
                "untrained blocks": untrained.patch_features,
                "values of small at 256 px": value_features,
                "colours": lambda images: functional.adaptive_avg_pool2d(images, 16),
            }
        )
    else:
        figures = prompt_figures(PromptModel.open(target))
    write_whole(target / "card.json", json_text({**card, "figures": figures}) + "\n")
    return target


ABOUT: dict[str, dict[str, str]] = {
    "vision": {
        "summary": "self-supervised image tower (DINO, iBOT, SelfPatch) on the convolutions of small; stride 8, 128 px",
        "unit": "percent; average precision with which a patch ranks those of its own object first, on scenes of 2 to "
        "4 held-out drawings at 128 px, mean of three seeds of 60 scenes",
    },
    "promptable": {
        "summary": "masks from clicks, boxes and rough masks (SAM's protocol) on the convolutions of small; 128 px",
        "unit": "percent; mean IoU after each click in the middle of the largest error and for the exact box alone, on "
        "scenes of 2 to 4 held-out drawings at 128 px, mean of three seeds of 20 scenes",
    },
}


def _made(summary: Mapping[str, Any], machine: str) -> dict[str, Any]:
    """How, from what and how long a run trained."""
    return {
        "recipe": summary["recipe"],
        "how": "The recipe, run in full on one CPU core; weights in 8 bits, convolutions taken from small.",
        "seconds": {
            **{stage["name"]: round(stage["seconds"]) for stage in summary["stages"] if stage["seconds"]},
            "machine": machine,
        },
        "trained_on": {
            "scenes": sum(stage["notes"].get("scenes", 0) for stage in summary["stages"]),
            "pictures": f"training splits of {', '.join(TRAINING_PACKS)}; photographs of scikit-image behind them",
            "data_hash": {name: pack_hash(name)[:16] for name in TRAINING_PACKS},
        },
        "revision": str(summary["revision"])[:7],
    }
