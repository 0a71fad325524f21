"""Does a second warp, which may erase, spare a smooth flow from squeezing the texture where a garment is hidden?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binderclip.data import worn_garments
from binderclip.generate import AdversarialTrainer, SequentialFlow, layout_discriminator, try_on_losses
from binderclip.studies.harness import Row, declared_study, dot_panels, random_rows
from binderclip.vision import area_change, compose_flows, resize_flow

SEQUENTIAL, SINGLE, UNMOVED = "sequential", "one flow", "no flow"
SQUEEZED, FIT = "visible pixels squeezed by more than a fifth beyond the truth", "IoU of the visible mask"
TEXTURE, PLACE = "error of the visible texture", "error of the flow where visible, px"
WIDTH, LEVELS, BATCH, STEPS, RATE, TEST, SIZE = 8, 2, 6, 40, 5e-3, 48, (24, 16)


def adversary() -> nn.Module:
    """A small patch discriminator of garment, body and layout."""
    layers: list[nn.Module] = []
    for before, after in ((11, WIDTH), (WIDTH, 2 * WIDTH)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(2 * WIDTH, 1, 3, padding=1))


def trained(seed: int, *, sequential: bool) -> SequentialFlow:
    """A small model after its training; both kinds see the same batches."""
    torch.manual_seed(seed)
    model = SequentialFlow(3, 4, garment=1, width=WIDTH, levels=LEVELS, sequential=sequential)
    terms = {"layout": layout_discriminator(adversary(), classes=4)}
    g = torch.Generator().manual_seed(seed)
    batches = [vars(worn_garments(BATCH, size=SIZE, generator=g)) for _ in range(STEPS)]
    AdversarialTrainer(model, terms, try_on_losses(), lr=RATE).fit(batches, steps=STEPS, schedule="cosine")
    return model.eval()


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with torch.enable_grad():
        models = {name: trained(seed, sequential=name == SEQUENTIAL) for name in (SEQUENTIAL, SINGLE)}
    shirts = vars(worn_garments(TEST, size=SIZE, generator=torch.Generator().manual_seed(seed + 1_000_000)))
    source = torch.cat([shirts["cloth"], shirts["cloth_mask"]], 1)
    rows = rows_of(UNMOVED, torch.zeros_like(shirts["flow"]), source, shirts)
    for name, model in models.items():
        outputs = model(shirts)
        flow = resize_flow(outputs["flows"][-1], SIZE)
        if outputs["depth_flow"] is not None:
            flow = compose_flows(flow, resize_flow(outputs["depth_flow"][:, :2], SIZE))
        rows += rows_of(name, flow, outputs["warped"], shirts)
    return rows


def rows_of(name: str, flow: Tensor, warped: Tensor, shirts: dict[str, Tensor]) -> list[Row]:
    """How much a flow squeezes and misses, and how well what is seen fits."""
    truth, visible = area_change(shirts["flow"]), shirts["worn_mask"]
    inside = torch.nn.functional.avg_pool2d(visible, 2, 1)[:, 0] == 1  # all four pixels of a slope
    squeezed = (area_change(flow) > 1.25 * truth)[inside].double().mean()
    mask, seen = warped[:, 3:] > 0.5, visible > 0
    overlap = (mask & seen).sum() / (mask | seen).sum()
    texture = ((warped[:, :3] - shirts["worn"]).abs().mean(1, keepdim=True) * visible).sum() / visible.sum()
    place = ((flow - shirts["flow"]).norm(dim=1, keepdim=True) * visible).sum() / visible.sum()
    values = {SQUEEZED: squeezed, FIT: overlap, TEXTURE: texture, PLACE: place}
    return [Row(metric, name, float(value)) for metric, value in values.items()]


def null(seed: int) -> list[Row]:
    """Random numbers for every row that is judged."""
    return random_rows(STUDY.criteria, seed)


PANELS = dot_panels(*((metric, (SEQUENTIAL, SINGLE, UNMOVED)) for metric in (SQUEEZED, FIT, TEXTURE, PLACE)))
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 20), null=null, registered="545d12a64ec4")
