"""Which words of a caption the cosine with an image rests on, and which work against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.words.token_words import Word, words_of_tokens
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.freezing import frozen
from binderclip.settings import check_choice

Rule = Literal["signed", "relu", "relevance"]


@dataclass(frozen=True)
class WordScores:
    """A signed number for every word of every caption: above zero it supports the match, below it speaks against it.

    Attributes:
        texts: the captions, as they were scored.
        spans: the words of each with their tokens.
        scores: one number a word, None for a word that the model did not see (cut off, or dropped by the tokenizer).
        cosine: (B,) cosine of each caption with its image.
        layers: the blocks of the text tower that were read, fewer than asked for where the tower has fewer; empty for
            methods that read none.
        tokens: (B, L) scores of all tokens, special ones too; None where there are none.
    """

    texts: tuple[str, ...]
    spans: tuple[tuple[Word, ...], ...]
    scores: tuple[tuple[float | None, ...], ...]
    cosine: Float[Tensor, "B"]
    layers: tuple[int, ...] = ()
    tokens: Float[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def words(self) -> list[list[tuple[str, float | None]]]:
        """For each caption its words in order, each with its score."""
        return [
            [(word.text, score) for word, score in zip(words, scores, strict=True)]
            for words, scores in zip(self.spans, self.scores, strict=True)
        ]


@runtime_checkable
class WordScorer(Protocol):
    """Anything that scores words as `WordScores` says."""

    def __call__(self, model: Any, images: Any, texts: str | Sequence[str]) -> WordScores: ...


@dataclass(frozen=True)
class TextTokenAttribution:
    """Attention of the sentence's token times its gradient, signs kept, averaged over heads and the last blocks.

    `R = mean over blocks and heads of dS/dA * A`, S the cosine without the logit scale and A the attention of the text
    tower; read at the row of the token that becomes the sentence. To first order it is what S would lose if that token
    paid no attention to the word. A word has the mean of its tokens.

    Args:
        layers: how many of the last blocks; a tower with fewer gives all it has, `WordScores.layers` says which.
        rule: `signed` as published; `relu` cuts negative products off before the mean; `relevance` is the propagation
            that the method revises: from the identity, `R <- R + mean over heads of relu(dS/dA * A) @ R`.
        batch_size: captions that go through the tower at once.

    Raises:
        UsageError: layers or batch size below 1, an unknown rule; when called, captions and images that do not pair
            up, or an empty caption.
        NotSupported: when called, a text tower that cannot be opened, or a tokenizer without words.

    Examples:
        >>> TextTokenAttribution()(model, image, "a red car on a road").words()  # doctest: +SKIP

    Paper: Extract Free Dense Misalignment from CLIP (arXiv 2412.18404).
    """

    layers: int = 3
    rule: Rule = "signed"
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.layers < 1 or self.batch_size < 1:
            raise UsageError(f"layers and batch_size must be at least 1, not {self.layers} and {self.batch_size}")
        check_choice("rule", self.rule, ("signed", "relu", "relevance"))

    def __call__(self, model: Any, images: Any, texts: str | Sequence[str]) -> WordScores:
        """Score the words of captions.

        Args:
            model: an `ImageTextModel` of any kind whose text tower opens.
            images: one for all captions or one each, anything the model takes, or their features (B, E).
            texts: one caption or several.
        """
        refuse_bare_module(model, "TextTokenAttribution")
        texts, features = paired(model, images, texts)
        spans = words_of_tokens(model.tokenizer, texts)
        tower = model.text_tower
        read = tuple(range(max(0, tower.depth - self.layers), tower.depth))
        tokens = model.tokenize(texts).to(tower.device)
        rows, cosines = [], []
        with frozen(model), torch.enable_grad():
            for start in range(0, len(texts), self.batch_size):
                part = slice(start, start + self.batch_size)
                row, cosine = self._rows(tower, tokens[part], features[part], read)
                rows.append(row)
                cosines.append(cosine)
        word_scores = torch.cat(rows).cpu()
        scores = tuple(
            tuple(_mean(row, word) for word in words) for row, words in zip(word_scores.double(), spans, strict=True)
        )
        return WordScores(tuple(texts), tuple(map(tuple, spans)), scores, torch.cat(cosines).cpu(), read, word_scores)

    def _rows(
        self, tower: Any, tokens: Any, features: Float[Tensor, "B E"], read: tuple[int, ...]
    ) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B"]]:
        from binderclip.models.towers.trace import Record, Site, trace

        seen = trace(tower, tokens, record=Record("attn", layers=list(read)))
        # A half-precision gradient of about 1e-6 would vanish: it is lifted for the backward pass alone.
        lift = 2.0**12 if tower.dtype == torch.float16 else 1.0
        cosine = F.cosine_similarity(seen.embedding.to(features.dtype), features, dim=-1)
        sites = [Site("attn", layer) for layer in read]
        grads = seen.grad(cosine * lift, sites)
        products = [
            grad.to(features.dtype) * seen.value(site).detach().to(features.dtype) / lift
            for grad, site in zip(grads, sites, strict=True)
        ]
        place = seen.tokens.pool_at
        assert place is not None
        return combine_blocks(products, self.rule)[torch.arange(len(place)), place], cosine.detach()


def combine_blocks(products: Sequence[Float[Tensor, "B H L L"]], rule: Rule) -> Float[Tensor, "B L L"]:
    """Gradient times attention of several blocks, first to last, as one matrix from reading to read tokens.

    Args:
        products: dS/dA * A of each block.
        rule: see `TextTokenAttribution`.
    """
    if rule == "relevance":
        total = torch.eye(products[0].shape[-1], device=products[0].device, dtype=products[0].dtype)
        relevance = total.expand(len(products[0]), -1, -1)
        for product in products:
            relevance = relevance + product.clamp(min=0).mean(dim=1) @ relevance
        return relevance - total
    kept = [product if rule == "signed" else product.clamp(min=0) for product in products]
    return torch.stack([product.mean(dim=1) for product in kept]).mean(dim=0)


@dataclass(frozen=True)
class LeaveOneWordOut:
    """What the cosine loses when the word is left out of the caption: slower, but no approximation.

    A caption of W words costs W + 1 passes of the text tower. The only word of a caption cannot be left out; it gets
    the cosine itself.

    Args:
        batch_size: captions that go through the tower at once.

    Raises:
        UsageError: when called, as `TextTokenAttribution`.
    """

    batch_size: int = 256

    @torch.no_grad()
    def __call__(self, model: Any, images: Any, texts: str | Sequence[str]) -> WordScores:
        """Score the words of captions; see `TextTokenAttribution` for the arguments."""
        texts, features = paired(model, images, texts)
        spans = words_of_tokens(model.tokenizer, texts)
        variants, owner = [], []
        for row, words in enumerate(spans):
            for gone in range(len(words)) if len(words) > 1 else ():
                variants.append(" ".join(word.text for k, word in enumerate(words) if k != gone))
                owner.append(row)
        encoded = model.encode_text([*texts, *variants], batch_size=self.batch_size)
        rows = torch.tensor([*range(len(texts)), *owner], device=features.device)
        cosine = F.cosine_similarity(encoded.to(features), features[rows], dim=-1).cpu()
        whole, without = cosine[: len(texts)], iter(cosine[len(texts) :].tolist())
        scores = []
        for full, words in zip(whole.tolist(), spans, strict=True):
            rest = [next(without) if len(words) > 1 else 0.0 for _ in words]
            scores.append(tuple(full - r if word.seen else None for r, word in zip(rest, words, strict=True)))
        return WordScores(tuple(texts), tuple(map(tuple, spans)), tuple(scores), whole)


def paired(model: Any, images: Any, texts: str | Sequence[str]) -> tuple[list[str], Float[Tensor, "B E"]]:
    """The captions as a list, and the features of the image of each.

    Raises:
        UsageError: an image-text model is needed; or neither one image nor one for each caption.
    """
    if not hasattr(model, "encode_text"):
        raise UsageError(f"words are scored with an image-text model, not {type(model).__name__}")
    captions = [texts] if isinstance(texts, str) else list(texts)
    if isinstance(images, Tensor) and images.ndim == 2 and images.is_floating_point():
        features = images.detach().to(model.device)
    else:
        with torch.no_grad():
            features = model.encode_image(images)
    if len(features) not in (1, len(captions)) and len(captions) == 1:
        captions = captions * len(features)
    if len(features) not in (1, len(captions)):
        raise UsageError(f"{len(features)} images and {len(captions)} captions: give one for all, or one for each")
    exact = torch.promote_types(features.dtype, torch.float32)
    return captions, features.to(exact).expand(len(captions), -1)


def _mean(row: Float[Tensor, "L"], word: Word) -> float | None:
    return float(row[word.start : word.stop].mean()) if word.seen else None
