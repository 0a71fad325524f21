"""An image explained criterion by criterion: which descriptions fit it best, and where each of them is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from binderclip.data.lettering import font_for
from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.transformer.eclip import MedGradECLIP
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number


@dataclass(frozen=True)
class Concept:
    """One criterion and how it fits.

    Attributes:
        name: of the criterion.
        text: what was compared with the image.
        probability: among all criteria (each by itself for models trained with a sigmoid).
        cosine: with the image.
    """

    name: str
    text: str
    probability: float
    cosine: float


@dataclass(frozen=True)
class ConceptReport:
    """What `concept_report` found.

    Attributes:
        image: the picture.
        concepts: the best criteria, best first.
        attribution: a map for each of them, in their order.
        count: how many criteria there were.
    """

    image: Image.Image
    concepts: tuple[Concept, ...]
    attribution: Attribution
    count: int

    @property
    def predicted(self) -> str:
        """Name of the criterion that fits best."""
        return self.concepts[0].name

    def pictures(self) -> list[tuple[Image.Image, str]]:
        """The map of each criterion over the image, with a caption."""
        return [
            (self.attribution.overlay(self.image, index), f"{concept.name}, {concept.probability:.0%}")
            for index, concept in enumerate(self.concepts)
        ]

    def sheet(self, width: int = 220) -> Image.Image:
        """The image and its maps side by side, each `width` pixels wide, captions below.

        Raises:
            UsageError: a width too small to show anything.
        """
        if width < 32:
            raise UsageError(f"width must be at least 32 pixels, not {width}")
        height = max(1, round(width * self.image.height / self.image.width))
        parts = [(self.image, "image"), *self.pictures()]
        font = font_for([caption for _, caption in parts], 13)
        page = Image.new("RGB", (len(parts) * (width + 8) - 8, height + 40), "white")
        pen = ImageDraw.Draw(page)
        for place, (picture, caption) in enumerate(parts):
            page.paste(
                picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (place * (width + 8), 0)
            )
            pen.multiline_text((place * (width + 8) + 2, height + 4), _folded(caption, width, font), "black", font)
        return page


def concept_report(
    model: Any,
    image: Any,
    criteria: Sequence[str] | Mapping[str, str],
    *,
    top: int = 3,
    method: Any = None,
) -> ConceptReport:
    """Rank descriptions by how well they fit an image and show where each of the best is seen.

    Args:
        model: an `ImageTextModel`, fine-tuned on such descriptions or not.
        image: one image, anything the model takes.
        criteria: descriptions, or name -> description.
        top: how many are shown.
        method: an attribution method; default `MedGradECLIP()`.

    Raises:
        UsageError: no criterion, an empty or doubled one, `top` below 1; see `attribute`.
        NotSupported: see the method.

    Paper: MedGrad E-CLIP: Enhancing Trust and Transparency in AI-Driven Skin Lesion Diagnosis (arXiv 2501.06887).
    """
    refuse_bare_module(model, "concept_report")
    if isinstance(criteria, str):
        raise UsageError("criteria must be a list of texts or a mapping name -> text, not one text")
    texts = dict(criteria) if isinstance(criteria, Mapping) else {text: text for text in criteria}
    if len(texts) < len(criteria):
        raise UsageError("criteria has the same text twice")
    check_number("top", top, least=1)
    from binderclip.data import open_image

    picture = open_image(image)
    classification = model.classify([picture], {name: [text] for name, text in texts.items()})
    order = classification.logits[0].argsort(descending=True)[:top].tolist()
    names = [classification.labels[place] for place in order]
    shown = [texts[name] for name in names]
    method = MedGradECLIP() if method is None else method
    attribution = method(model, [picture] * len(shown), shown)
    concepts = tuple(
        Concept(name, texts[name], float(classification.probs[0, place]), float(value))
        for name, place, value in zip(names, order, attribution.value, strict=True)
    )
    return ConceptReport(picture, concepts, attribution, len(texts))


def _folded(text: str, width: int, font: Any) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width - 4 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines[:2])
