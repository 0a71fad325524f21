"""Are strokes harder to fool a model with than pixels, and does another model see the prompt in a drawing?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.generate import (
    BezierStrokes,
    ImageOptimisation,
    Parametrisation,
    PerspectiveCutouts,
    PixelImage,
    clip_prompt,
)
from binderclip.generate.draw.clipdraw import settling_rate
from binderclip.models.image_text.model import ImageTextModel
from binderclip.studies.harness import Row, Table, declared_study, random_rows
from binderclip.studies.protocols.bundled import bundled

STROKES, PIXELS, FIRST = "strokes", "pixels", "random strokes"
GUIDE, JUDGE = "place of the prompt by the guide", "place of the prompt by the judge"
GUIDING, JUDGING = "small", "small-b"
COUNT, STEPS, VIEWS, SIDE, FASTER, RANDOM = 32, 40, 2, 64, 5, 16
RATES = (FASTER * SIDE / 224, FASTER * 0.2 * SIDE / 224, FASTER * 0.01)
NOUNS = """
apple airplane anchor balloon banana bell bicycle bird boat book bottle butterfly cactus cake camera candle car cat
chair cherry clock cloud crown cup dog duck egg fish flag flower frog guitar hammer hat heart house key leaf
lemon lion moon mushroom pencil pizza rainbow rocket scissors snake star sun tree umbrella""".split()  # noqa: SIM905
PROMPTS = ("apple", "sun", "tree", "heart", "banana", "frog", "moon", "house", "fish", "rainbow")


def measure(seed: int) -> list[Row]:
    """All rows of one seed: one prompt, drawn twice by the same guide through the same views."""
    prompt = PROMPTS[seed % len(PROMPTS)]
    strokes = BezierStrokes.random(COUNT, (SIDE, SIDE), seed=seed, lr=RATES, point_schedule=settling_rate)
    noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    grey = PixelImage((0.5 + 0.1 * noise).clamp(0, 1))
    random = [BezierStrokes.random(COUNT, (SIDE, SIDE), seed=1000 * seed + k)().detach() for k in range(RANDOM)]
    pictures = {FIRST: torch.cat(random)}
    params: dict[str, Parametrisation] = {STROKES: strokes, PIXELS: grey}
    guide = bundled(GUIDING)
    for name, param in params.items():
        objective = clip_prompt(guide, f"a drawing of a {prompt}", distance="cosine", weight=VIEWS)
        run = ImageOptimisation(param, {"prompt": objective}, transforms=PerspectiveCutouts(VIEWS), seed=seed)
        pictures[name] = run.run(STEPS).image
    return [
        Row(metric, name, place(bundled(scorer), image, prompt))
        for metric, scorer in ((GUIDE, GUIDING), (JUDGE, JUDGING))
        for name, image in pictures.items()
    ]


@torch.no_grad()
def place(model: ImageTextModel, images: Float[Tensor, "B 3 H W"], prompt: str) -> float:
    """The part of the other nouns that come after the prompt's, 1 where it is the first: the mean over pictures."""
    texts = model.encode_text([f"a drawing of a {noun}" for noun in NOUNS], normalize=True)
    cosine = model.encode_image(images, normalize=True) @ texts.T  # [B, K]
    after = cosine < cosine[:, [NOUNS.index(prompt)]]
    return float(after.sum(1).double().mean()) / (len(NOUNS) - 1)


def draw(table: Table, figure: object) -> None:
    """Places by guide and judge, a line for each seed."""
    axes = figure.subplots(1, 3, sharey=True)  # type: ignore[attr-defined]
    for ax, name in zip(axes, (FIRST, STROKES, PIXELS), strict=True):
        places = [table.values(metric, name) for metric in (GUIDE, JUDGE)]
        ax.plot([0, 1], places, "o-", alpha=0.4, color="C0")
        ax.plot([0, 1], [values.mean() for values in places], "s-", color="C3")
        ax.set_xticks([0, 1], ["guide", "judge"])
        ax.set_title(name, fontsize=9)
    axes[0].set_ylabel("place of the prompt among the nouns")


def null(seed: int) -> list[Row]:
    """Random places."""
    return random_rows(STUDY.criteria, seed)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(100, 136), null=null, registered="0f2280dcc9d2")
