"""From a task ("the hidden animal") to what it means in one picture: words for the object and for what is around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.text.article import with_article
from binderclip.segment.task.phrase import variants
from binderclip.segment.task.vocabulary import CAMOUFLAGE, meant_words, modifiers_of

__all__ = [
    "BACKGROUNDS",
    "SYNONYMS",
    "Chains",
    "FixedWords",
    "Hypothesis",
    "PatchHypotheses",
    "VocabularyGate",
    "VocabularyScorer",
    "WordProposer",
    "patches",
]

SYNONYMS = CAMOUFLAGE[:3]
"""The paper's three, of which each is asked."""
BACKGROUNDS = ("grass", "leaves", "sand", "rock", "bark", "water", "snow", "sky", "a wall", "stripes", "a pattern")


@dataclass(frozen=True)
class Hypothesis:
    """What may be in a picture.

    Attributes:
        fore: word of the object. back: of what is around it. None where there is no such word: lists of words need not
            be equally long, and none of them is filled up.
        box: xyxy in pixels of the picture, where it was seen; None for anywhere.
        weight: how well it is supported.
    """

    fore: str | None = None
    back: str | None = None
    box: tuple[float, float, float, float] | None = None
    weight: float = 1.0


@runtime_checkable
class WordProposer(Protocol):
    """Names what a task means in a picture."""

    def propose(
        self, image: Image.Image, task: str, previous: Sequence[Hypothesis] = (), seen: Image.Image | None = None
    ) -> list[Hypothesis]:
        """Hypotheses, those that count to begin with.

        Args:
            image: the picture.
            task: in words.
            previous: hypotheses of the round before.
            seen: the picture as the round before has re-weighted it.
        """
        ...


@dataclass(frozen=True)
class FixedWords:
    """The same words for every picture; without any the task itself.

    Args:
        fore: of the object. back: of what is around it.
    """

    fore: tuple[str, ...] = ()
    back: tuple[str, ...] = ()

    def propose(self, image: Any, task: str, previous: Any = (), seen: Any = None) -> list[Hypothesis]:
        """See `WordProposer`."""
        return [Hypothesis(*words) for words in zip_longest(self.fore or (task.strip(),), self.back)]


@dataclass
class VocabularyScorer:
    """Probabilities of words in a picture by an image-text model: what stands in for a vision-language model.

    Args:
        model: encodes pictures and texts.
        vocabulary: words that the object may be.
        backgrounds: words that its surroundings may be.

    Raises:
        UsageError: no word.
    """

    model: Any
    vocabulary: Sequence[str]
    backgrounds: Sequence[str] = BACKGROUNDS
    _rows: dict[tuple[str, ...], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.vocabulary = tuple(dict.fromkeys(word.strip() for word in self.vocabulary if word.strip()))
        if not self.vocabulary:
            raise UsageError("the vocabulary holds no word: give words that the object may be")

    @torch.no_grad()
    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Float[Tensor, "N C"]:
        """Softmax of the model's logits over texts, for each picture."""
        key = tuple(texts)
        if key not in self._rows:
            self._rows[key] = self.model.text_bank(list(texts)).prototypes().float()
        rows = self._rows[key]
        unit = torch.nn.functional.normalize(self.model.encode_image(list(images)).float(), dim=-1)
        return (float(self.model.text_bank([texts[0]]).scale) * unit @ rows.T).softmax(-1)


@dataclass
class Chains:
    """GenSAM's chains of thought: each synonym of the task asks once for the object, then for what is around it.

    Args:
        ask: (picture, task without its article) -> words for object and surroundings; see `vocabulary_chain` and
            `language.QuestionChain`.
        synonyms: words that mean the same, each of which takes the place of the one that the task has: those of
            camouflage by default; the paper's for shadows are "shadow", "silhouette" and "outline". A task with none of
            them is asked once, as it is.

    Paper: Relax Image-Specific Prompt Requirement in SAM (AAAI 2024, arXiv 2312.07374).
    """

    ask: Callable[[Image.Image, str], tuple[str, str]]
    synonyms: tuple[str, ...] = SYNONYMS

    def propose(
        self, image: Image.Image, task: str, previous: Sequence[Hypothesis] = (), seen: Any = None
    ) -> list[Hypothesis]:
        """See `WordProposer`; empty answers are dropped.

        Without words for the surroundings, or with the same ones as for the object, they are the "environment".
        """
        if previous:  # the picture that is asked about stays the same
            return list(previous)
        answers = [self.ask(image, variant) for variant in variants(task, self.synonyms)]
        fore = [a.strip() for a, _ in answers if a.strip()] or [task.strip()]
        back = [b.strip() for _, b in answers if b.strip()]
        if not back or set(fore) == set(back):
            back = ["environment"]
        return [Hypothesis(*words) for words in zip_longest(fore, back)]


@dataclass
class VocabularyGate:
    """Zip's candidate classes: all words of a vocabulary that the picture, or a ninth of it, probably shows.

    Args:
        scorer: probabilities of its vocabulary.
        threshold: of the largest probability over the picture and 3 x 3 crops, above which a word is a candidate.

    Paper: The devil is in the object boundary (ICLR 2024, arXiv 2404.11957).
    """

    scorer: VocabularyScorer
    threshold: float = 0.05

    def propose(self, image: Image.Image, task: str, previous: Any = (), seen: Any = None) -> list[Hypothesis]:
        """See `WordProposer`; none where nothing is probable."""
        x, y = ([round(i * side / 3) for i in range(4)] for side in image.size)
        crops = [image.crop((x[i], y[j], x[i + 1], y[j + 1])) for j in range(3) for i in range(3)]
        views = [image, *(crop for crop in crops if min(crop.size))]
        probs = self.scorer.probabilities(views, self.scorer.vocabulary).amax(0)  # (C,)
        hypotheses = [Hypothesis(w, weight=float(p)) for w, p in zip(self.scorer.vocabulary, probs, strict=True)]
        return sorted((own for own in hypotheses if own.weight > self.threshold), key=lambda own: -own.weight)


def vocabulary_chain(scorer: VocabularyScorer) -> Callable[[Image.Image, str], tuple[str, str]]:
    """The answer of an image-text model: of the words that a task may mean the one that fits best into it.

    Words are put into the task's place for the thing ("camouflaged animal" -> "a camouflaged owl"), and those for the
    surroundings after its camouflage ("camouflaged in bark") or after the word that was found ("a ball in grass").
    """

    def ask(image: Image.Image, task: str) -> tuple[str, str]:
        words = meant_words(task, scorer.vocabulary)
        before, after = modifiers_of(task, scorer.vocabulary)
        phrases = [with_article(" ".join([*before, word, *after.split()])) for word in words]
        best = int(scorer.probabilities([image], phrases)[0].argmax())
        hidden = " ".join(word for word in before if word in CAMOUFLAGE)
        back = scorer.probabilities([image], [f"{hidden or phrases[best]} in {own}" for own in scorer.backgrounds])[0]
        return words[best], scorer.backgrounds[int(back.argmax())]

    return ask


def patches(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The picture, its halves left, right, upper and lower, and its quarters: nine boxes xyxy of a picture (W, H)."""
    width, height = size
    x, y = max(1, width // 2), max(1, height // 2)
    return [
        (0, 0, width, height), (0, 0, x, height), (width - x, 0, width, height), (0, 0, width, y),
        (0, height - y, width, height), (0, 0, x, y), (width - x, 0, width, y), (0, height - y, x, height),
        (width - x, height - y, width, height),
    ]  # fmt: skip


@dataclass
class PatchHypotheses:
    """INT's hypotheses: each of nine patches names an object; erasing it shows which name was true.

    A patch's object is erased, and of the words that the task may mean (`meant_words`) the one whose probability falls
    most is what the patch says. That contrast is multiplied with the patch's share in the round before, so that only
    names that go on being supported survive.

    Args:
        scorer: probabilities of words; patches are scored in one batch.
        locate: (picture, word) -> box xyxy around it, or None; see `localise.WordBoxes.first`.
        erase: (picture, box, what to paint, what not) -> the picture without what is in the box; the words for the
            surroundings and for the object are for an inpainting model; see `erasing.filled_from_border`.
        cumulate: whether rounds are multiplied; False judges by the last contrast alone.
        floor: least share of a patch, or an early error could never be mended.

    Paper: INT: Instance-Specific Negative Mining for Task-Generic Promptable Segmentation (arXiv 2501.18753).
    """

    scorer: VocabularyScorer
    locate: Callable[[Image.Image, str], tuple[int, int, int, int] | None]
    erase: Callable[[Image.Image, tuple[int, int, int, int], str, str], Image.Image]
    cumulate: bool = True
    floor: float = 1e-3

    def propose(
        self,
        image: Image.Image,
        task: str,
        previous: Sequence[Hypothesis] = (),
        seen: Image.Image | None = None,
    ) -> list[Hypothesis]:
        """See `WordProposer`; the best patch first. `previous` has to be what this gave for the same picture."""
        places = patches(image.size)
        parts = [(seen or image).crop(place) for place in places]
        every, around = self.scorer.vocabulary, self.scorer.backgrounds
        # Probabilities are held against all words, an answer is one of those that the task may mean.
        words = meant_words(task, every)
        columns = [every.index(word) for word in words]
        before = self.scorer.probabilities(parts, every).cpu()[:, columns]
        back = self.scorer.probabilities(parts, around).argmax(1).tolist()
        erased, boxes = [], []
        for part, guess, ground in zip(parts, before.argmax(1).tolist(), back, strict=True):
            box = self.locate(part, words[guess])
            boxes.append(box)
            erased.append(part if box is None else self.erase(part, box, around[ground], words[guess]))
        contrast = before - self.scorer.probabilities(erased, every).cpu()[:, columns]
        fall, name = contrast.max(1)
        if previous and not bool((fall > 0).any()):
            return list(previous)  # nothing was erased that any name stood on
        name = torch.where(fall > 0, name, before.argmax(1))
        strength = torch.where(torch.tensor([box is not None for box in boxes]), fall.clamp(min=0), 0.0)
        if previous and self.cumulate:
            memory: dict[Any, float] = {own.box: own.weight for own in previous}
            shares = torch.tensor([memory.get(tuple(map(float, place)), 0.0) for place in places])
            strength = mined(strength, shares, self.floor)
        weights = normalised(strength)
        hypotheses = [
            Hypothesis(words[int(n)], around[b], tuple(map(float, place)), float(w))  # type: ignore[arg-type]
            for n, b, place, w in zip(name, back, places, weights, strict=True)
        ]
        return sorted(hypotheses, key=lambda own: -own.weight)


def normalised(strength: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
    """Shares of patches; equal ones where nothing is supported."""
    total = strength.sum()
    return strength / total if total > 0 else torch.full_like(strength, 1 / len(strength))


def mined(strength: Float[Tensor, "K"], shares: Float[Tensor, "K"], floor: float = 1e-3) -> Float[Tensor, "K"]:
    """Progressive mining: contrasts times the shares of the round before; the shares where all contrasts are 0."""
    return strength * shares.clamp(min=floor) if bool((strength > 0).any()) else shares
