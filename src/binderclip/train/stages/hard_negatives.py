"""Captions with an object too many or too few, which each picture learns to be told apart from, as a stage of a recipe.

[[stage]]
kind = {name = "hard-negatives", count = 9}
loss = "hard-negatives"
data = ["openclipart"]
epochs = 1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from binderclip.data import ObjectStatistics, hallucinated_captions
from binderclip.data.made.hallucinations import PADDING
from binderclip.data.uniform import uniform
from binderclip.errors import NotSupported, UsageError
from binderclip.losses import ContrastiveLoss
from binderclip.models import ImageTextModel, TokenIds
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.feed.captions import caption_tokens
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import loss_figures, make_loss, nan_of, training_loss
from binderclip.train.tokens.place import short_context
from binderclip.train.tokens.word_classes import NOUN, split_words, word_classes

__all__ = ["HallucinatedTexts", "HardNegativesStep", "hard_negatives", "objects_in"]

MOST = 27  # captions that `hallucinated_captions` makes
LEAST = 6  # objects there must be: a caption with three of them leaves three absent ones


def objects_in(caption: str, known: set[str] | None = None) -> list[str]:
    """Objects that a caption names, in its order, each once.

    Args:
        caption: a text.
        known: words that are objects; None takes nouns in the singular which are no names, as they go behind "a".
    """
    words = split_words(caption)
    lower = [word.lower() for word in words]
    if known is not None:
        return list(dict.fromkeys(word for word in lower if word in known))
    named = [place > 0 and word[0].isupper() for place, word in enumerate(words)]
    kinds = zip(lower, word_classes(words), named, strict=True)
    return list(dict.fromkeys(word for word, kind, name in kinds if kind == NOUN and not name and not _plural(word)))


def _plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


class HallucinatedTexts:
    """Makes `count` of the 27 hallucinated captions of each picture, drawn anew in each pass by a hash of its key.

    Args:
        captions: of the training set, whose objects are counted.
        count: negatives a picture, 1 to 27.
        objects: words that name objects; None takes the nouns (`objects_in`) that occur in at least two captions.
        seed: of the draws.

    Raises:
        UsageError: fewer than six objects occur in the captions.
    """

    def __init__(
        self, captions: Sequence[str], count: int = MOST, *, objects: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        self.count, self.seed = count, seed
        if objects is None:
            occurs = Counter(name for caption in captions for name in objects_in(caption))
            self.known = {name for name, times in occurs.items() if times > 1}
        else:
            self.known = {name.lower() for name in objects}
        self.statistics = ObjectStatistics([objects_in(caption, self.known) for caption in captions])
        if len(self.statistics.counts) < LEAST:
            names = ", ".join(sorted(self.statistics.counts)) or "none"
            raise UsageError(f"hard-negatives: at least {LEAST} objects must occur in the captions, found {names}")

    def __call__(self, captions: Sequence[str], keys: Sequence[str], epoch: int) -> list[list[str]]:
        """`count` lists of a caption for each picture; `PADDING` where one could not be made."""
        order = uniform(self.seed, [f"negatives/{key}" for key in keys], epoch, MOST + 1)  # (B, 28)
        made = []
        for caption, draws in zip(captions, order, strict=True):
            present = objects_in(caption, self.known)
            rng = np.random.default_rng(int(draws[MOST] * (1 << 24)))
            entry = hallucinated_captions(caption, present, self.statistics.absent(present, rng))
            # Those that could be made come first, in the order of the draws.
            chosen = np.lexsort((draws[:MOST], np.logical_not(entry.valid)))[: self.count]
            made.append([entry.captions[place] for place in chosen])
        return [list(each) for each in zip(*made, strict=True)]


class HardNegativesStep(nn.Module):
    """Forward of one step: both towers, the negative captions through the text tower, then the loss.

    Args:
        model: the model to train.
        loss: called with `negatives` (B, N, E) and `negatives_valid` (B, N).
        padding: token ids (L) that stand for a negative caption which could not be made.
    """

    def __init__(self, model: ImageTextModel, loss: ContrastiveLoss, padding: Int[Tensor, "L"]) -> None:
        super().__init__()
        self.model, self.loss, self.padding = model, loss, padding

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.model.encode_pixels(batch.images)
        with short_context(self.model.backbone, batch.tokens.ids.shape[1]):
            text = self.model.encode_text(batch.tokens)
            negatives = torch.stack([self.model.encode_text(tokens) for tokens in batch.texts], 1)  # (B, N, E)
        valid = torch.stack([self.differs(tokens, batch.tokens) for tokens in batch.texts], 1)  # (B, N)
        keys = batch.caption_ids if self.loss.targets.needs_keys else None
        try:
            output = self.loss(
                image, text, keys=keys, negatives=negatives, negatives_valid=valid.to(image.dtype), **batch.columns
            )
        except UsageError as error:
            return nan_of(error, image, text, negatives), {}
        return output.total, loss_figures(output)

    def differs(self, tokens: TokenIds, own: TokenIds) -> Bool[Tensor, "B"]:
        """Which texts are no padding and, as the text tower sees them, not the picture's own: long ones are cut."""
        return (tokens.ids != self.padding.to(tokens.ids.device)).any(1) & (tokens.ids != own.ids).any(1)


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if not 1 <= settings.get("count", MOST) <= MOST:
        raise UsageError(f"hard-negatives: count must be 1 to {MOST}, got {settings['count']}")
    make_loss(stages[index].loss)


@register(STAGES, "hard-negatives")
@demands(check=_check)
def hard_negatives(context: StageContext, *, count: int = MOST, objects: list[str] | None = None) -> None:
    """Train images against captions and against captions with objects added or left out (`loss = "hard-negatives"`).

    Objects of a picture are those that its caption names; others are added by how often they occur, and with which.

    Args:
        context: of the stage.
        count: negatives a picture and pass, of the 27 of `data.hallucinated_captions`; each is one more caption for the
            text tower.
        objects: words that name objects; None takes the nouns that occur in at least two captions.

    Raises:
        UsageError: a count out of range, or captions with fewer than six objects.
        NotSupported: shards, or a model that is no image-text pair.

    Paper: Investigating and Mitigating Object Hallucinations in Pretrained Vision-Language (CLIP) Models, arXiv
    2410.03176.
    """
    model = context.model
    if not isinstance(model, ImageTextModel):
        raise NotSupported(f"hard-negatives takes image-text models, not {type(model).__name__}")
    texts = HallucinatedTexts(context.pictures.texts, count, objects=objects, seed=context.seed)
    tokenize, _ = caption_tokens(model, context.stage.text_length, seed=context.seed)
    padding = tokenize([PADDING]).ids[0]
    with training_loss(context) as loss:
        context.fit(HardNegativesStep(model, loss, padding), context.batches(texts=texts))


@register(PASSES, "hard-negatives")
def _passes(stage: Stage, *, count: int = MOST, **settings: object) -> TowerPasses:
    return TowerPasses(captions=1 + count)
