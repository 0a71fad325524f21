"""Q-Boost: a neutral word between good and bad, and synonyms whose logits are averaged, for whatever scores words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.quality.score.prompt_quality import PromptQuality, expected_place, prompt_sets

TRIPLES: tuple[tuple[str, str, str], ...] = (
    ("good", "average", "poor"),
    ("high", "medium", "low"),
    ("fine", "acceptable", "bad"),
)
"""The paper's synonyms, from best to worst."""
QUESTION = "Rate the quality of the image."
"""What the paper asks a language model; the logits are those of the first token of its answer."""
TEMPLATE = "{} photo."


@runtime_checkable
class ScoresWords(Protocol):
    """Whatever gives a logit to each of some words for each of some images."""

    def word_logits(self, images: Any, words: Sequence[str]) -> Float[Tensor, "B W"]:
        """Logits, larger where a word fits better."""
        ...


class WordLogitScorer:
    """Word logits of a multi-modal language model: those of the first token of every word, next after a question.

    Args:
        next_logits: (images, question) -> (B, V) logits of the token that follows, over the vocabulary.
        token_ids: a word -> its token ids, with or without a begin token. A word that follows the question needs the
            leading space that the tokenizer writes there.
        question: see `QUESTION`.
        begin: id of the begin token, left out where a word's ids start with it.

    Paper: Q-Boost: On Visual Quality Assessment Ability of Low-level Multi-Modality Foundation Models (arXiv
        2312.15300).

    Examples:
        >>> scorer = WordLogitScorer(lambda images, question: torch.eye(3), lambda word: [["good", "poor"].index(word)])
        >>> scorer.word_logits(None, ["good", "poor"])
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """

    def __init__(
        self,
        next_logits: Callable[[Any, str], Float[Tensor, "B V"]],
        token_ids: Callable[[str], Sequence[int]],
        *,
        question: str = QUESTION,
        begin: int | None = None,
    ) -> None:
        self.next_logits, self.token_ids, self.question, self.begin = next_logits, token_ids, question, begin

    def word_logits(self, images: Any, words: Sequence[str]) -> Float[Tensor, "B W"]:
        """The logit of every word's first token.

        Raises:
            UsageError: a word without a token, or two different words that begin with the same one.
        """
        first: dict[int, str] = {}
        places = []
        for word in words:
            ids = [int(token) for token in self.token_ids(word)]
            ids = ids[1:] if ids and ids[0] == self.begin else ids
            if not ids:
                raise UsageError(f"the word {word!r} has no token")
            if first.setdefault(ids[0], word) != word:
                raise UsageError(f"the words {first[ids[0]]!r} and {word!r} begin with the same token: take another")
            places.append(ids[0])
        return self.next_logits(images, self.question)[:, places]


class PromptWords:
    """Word logits of a contrastive model: scaled cosines of pictures with a template around every word.

    Args:
        score: gives the model, the size of its pictures and the scale; its own prompts have no say.
        template: with one `{}` for the word.

    Raises:
        UsageError: a template without `{}`.
    """

    def __init__(self, score: PromptQuality, template: str = TEMPLATE) -> None:
        if template.count("{}") != 1:
            raise UsageError(f"template {template!r} needs one {{}} for the word")
        self.score, self.template = score, template

    def word_logits(self, images: Any, words: Sequence[str]) -> Float[Tensor, "B W"]:
        """Scaled cosines; gradients reach the pixels of float tensors."""
        image = self.score.embed(images)
        with torch.no_grad():
            text = self.score.model.encode_text([self.template.format(word) for word in words])
        return self.score.scale * image @ F.normalize(text, dim=-1).to(image).T


class PromptEnsemble:
    """Score pictures by several rows of synonyms from best to worst, their logits averaged before one softmax.

    With tones t = 0 .. T - 1 the score is `softmax(mean_s z_s) . (1 - t / (T - 1))`: two tones are the plain score,
    three integrate the neutral one (triadic tone), five take excellent to bad. Averaging logits is a product of
    experts; an average of probabilities would rank otherwise.

    Args:
        scorer: of words.
        sets: rows of words from best to worst, all of one length.

    Attributes:
        lower_better: False.

    Raises:
        UsageError: no row, one of a single word, or rows of different lengths.

    Paper: Q-Boost: On Visual Quality Assessment Ability of Low-level Multi-Modality Foundation Models (arXiv
        2312.15300).
    """

    lower_better = False

    def __init__(self, scorer: ScoresWords, sets: Sequence[Sequence[str]] = TRIPLES) -> None:
        if not isinstance(scorer, ScoresWords):
            raise UsageError(f"scorer must have word_logits(images, words), {type(scorer).__name__} has not")
        self.scorer = scorer
        rows = {f"row {number}": tuple(words) for number, words in enumerate(sets, 1)}
        self.sets = list(prompt_sets(rows).values())

    def logits(self, images: Any) -> Float[Tensor, "B T"]:
        """Logits of the tones, mean over the rows."""
        words = list(dict.fromkeys(word for row in self.sets for word in row))
        logits = self.scorer.word_logits(images, words)
        return torch.stack([logits[:, [words.index(word) for word in row]] for row in self.sets]).mean(0)

    def __call__(self, images: Any) -> Float[Tensor, "B"]:
        """Scores in [0, 1], higher is better."""
        return expected_place(self.logits(images))

    def video(self, frames: Any) -> Float[Tensor, ""]:
        """The score of one video: the logits of its frames, one a second in the paper, are averaged first.

        Args:
            frames: as the scorer takes images.
        """
        return expected_place(self.logits(frames).mean(0))


class TriadicScore(PromptEnsemble):
    """Score pictures by three words: `softmax(positive, neutral, negative) . (1, 0.5, 0)`.

    For single images the paper takes this one, without an ensemble.

    Args:
        scorer: of words.
        words: positive, neutral and negative.

    Raises:
        UsageError: another number of words.

    Paper: Q-Boost: On Visual Quality Assessment Ability of Low-level Multi-Modality Foundation Models (arXiv
        2312.15300).
    """

    def __init__(self, scorer: ScoresWords, words: Sequence[str] = TRIPLES[0]) -> None:
        if len(words) != 3:
            raise UsageError(f"a triad has three words, from best to worst, not {len(words)}")
        super().__init__(scorer, [words])
