"""Does one made picture beat genuine ones on most of their own texts, and does a narrower gap weaken it?"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.evaluate import zero_shot_accuracy
from binderclip.robust import MasterPrintAttack, master_print_win_rate, shift_modality_gap
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import cluttered

GENUINE, STEPS, GENERATIONS, LATENT = 120, 500, 60, (3, 8, 8)
PIXELS, PHOTOGRAPH, BLACK_BOX = "free pixels", "near a photograph", "without gradients"
NOISE, PICTURE = "random noise", "the best genuine picture"
WIN, LEAST = "win rate", "least cosine"
MINED, OTHER, SHIFTED, HALF = "texts it was made for", "another sentence", "gap narrowed by 0.25", "by 0.5"
SENTENCES = {MINED: "a {}", OTHER: "this picture shows a {}"}


@cache
def genuine(seed: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pictures of one held-out drawing each, the index of its class, and all classes."""
    made = cluttered(seed, GENUINE, objects=1, size=128, area=(0.15, 0.4))
    names = tuple(made.classes)
    return made.images, torch.tensor([names.index(each[0]) for each in made.names]), names


def decode(latents: Tensor) -> Tensor:
    """Coarse colours, enlarged."""
    return F.interpolate(latents, size=(128, 128), mode="bilinear").sigmoid()


def prints(seed: int) -> dict[str, Tensor]:
    """The pictures that are judged."""
    images, _, names = genuine(seed)
    texts = [SENTENCES[MINED].format(name) for name in names]
    make = {
        PIXELS: MasterPrintAttack(bundled(), texts, steps=STEPS, seed=seed)(),
        PHOTOGRAPH: MasterPrintAttack(bundled(), texts, search="pgd", steps=STEPS)(images[0]),
        BLACK_BOX: MasterPrintAttack(
            bundled(), texts, search="cma-es", steps=GENERATIONS, decode=decode, latent=LATENT, seed=seed
        )(),
    }
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return {name: found.image for name, found in make.items()} | {NOISE: noise}


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    images, labels, names = genuine(seed)
    seen = model.encode_image(images)
    texts = {key: model.encode_text([said.format(each) for each in names]) for key, said in SENTENCES.items()}
    with torch.enable_grad():
        made = {name: model.encode_image(image[None])[0].detach() for name, image in prints(seed).items()}
    likeness = F.normalize(seen, dim=1) @ F.normalize(texts[MINED], dim=1).T
    made[PICTURE] = seen[likeness.amin(1).argmax()]
    rows = [
        Row("accuracy", "genuine", zero_shot_accuracy(seen, texts[MINED], labels)["accuracy"]),
        Row("cosine", "genuine, own text", float(likeness.gather(1, labels[:, None]).mean())),
    ]
    gap = seen.mean(0) - texts[MINED].mean(0)
    for name, vector in made.items():
        rows.append(Row(LEAST, name, float(F.cosine_similarity(vector[None], texts[MINED]).min())))
        for setting, share in ((MINED, 0.0), (OTHER, 0.0), (SHIFTED, 0.25), (HALF, 0.5)):
            said = texts[OTHER if setting == OTHER else MINED]
            both, moved = shift_modality_gap(torch.cat([vector[None], seen]), said, share, gap=gap)
            rows.append(Row(WIN, name, master_print_win_rate(both[0], both[1:], moved, labels), setting))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Win rates, and the pictures."""
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.4, 1))
    upper, lower = halves
    names = (PIXELS, PHOTOGRAPH, BLACK_BOX, NOISE, PICTURE)
    for ax, setting in zip(upper.subplots(1, 4, sharey=True), (MINED, OTHER, SHIFTED, HALF), strict=True):
        dots(ax, table, WIN, names, setting)
        ax.set_title(setting, fontsize=8)
        ax.set_ylabel(WIN)
        ax.tick_params(axis="x", rotation=60, labelsize=6)
    seed = table.rows[0].seed
    made = prints(seed)
    shown: list[Any] = [genuine(seed)[0][0], *made.values()]
    pictures(lower.subplots(1, len(shown)), [each.permute(1, 2, 0).numpy() for each in shown], ["genuine", *made])


def null(seed: int) -> list[Row]:
    """Random numbers under every name."""
    rows = random_rows(STUDY.criteria, seed)
    return [*rows, Row("accuracy", "genuine", 1.0)]


STUDY = declared_study(__name__, measure, null=null, seeds=range(8), draw=draw, registered="dbfe44026559")
