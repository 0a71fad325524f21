"""What is explained: one number a sample, computed from the model's output.

The output of an image-text model is its image features, of anything else its logits. Targets whose class attribute `on`
is "dense" read the map of patch features in the shared space (B, E, h, w) instead. A target is resolved once, on the
clean images, before any image is perturbed; texts are encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError

Score: TypeAlias = Callable[[Tensor], Tensor]


@runtime_checkable
class Target(Protocol):
    """A target that has to see the model before it can score its output."""

    def bind(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        """The function from outputs (B, K) to scores (B,)."""


@dataclass(frozen=True)
class text:
    """Cosine between image and text, without the logit scale (for an image-text model); the class logit otherwise.

    Args:
        texts: one text for all images, or one an image.
    """

    texts: str | Sequence[str]

    def bind(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        """Encode the texts, or find them among the classes."""
        texts = [self.texts] if isinstance(self.texts, str) else list(self.texts)
        if len(texts) not in (1, len(outputs)):
            raise UsageError(f"{len(texts)} texts for {len(outputs)} images: give one text, or one for each image")
        if is_image_text(model):
            rows = _encode(model, texts).to(outputs)
            return lambda features: (F.normalize(features, dim=-1) * rows).sum(dim=-1)
        return _pick([_class_index(model, name, outputs.shape[1]) for name in texts], outputs)


@dataclass(frozen=True)
class margin:
    """How much better a text fits than the best of some others: the cosine (or logit) minus the largest other one.

    Args:
        text: what is explained.
        others: what it is compared with; None, for a classifier: all its other classes.
    """

    text: str
    others: Sequence[str] | None = None

    def bind(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        """Encode all texts, or find them among the classes."""
        if isinstance(self.others, str):
            raise UsageError("targets.margin: others must be a list of texts, not one text")
        if is_image_text(model):
            if not self.others:
                raise UsageError("targets.margin needs others=[...]: an image-text model has no classes of its own")
            rows = _encode(model, [self.text, *self.others]).to(outputs)
            return lambda features: _margin(F.normalize(features, dim=-1) @ rows.T, 0, None)
        index = _class_index(model, self.text, outputs.shape[1])
        others = None if self.others is None else [_class_index(model, n, outputs.shape[1]) for n in self.others]
        return lambda logits: _margin(logits, index, others)


@dataclass(frozen=True)
class patch:
    """Cosine between one patch of the image and a text, as dense features have it (for transformer towers).

    Args:
        text: one text.
        row: of the patch in the model's grid, 0 at the top.
        column: 0 at the left.
    """

    on: ClassVar[str] = "dense"
    text: str
    row: int
    column: int

    def bind(self, model: Any, outputs: Float[Tensor, "B E h w"]) -> Score:
        """Encode the text and look the patch up."""
        if not is_image_text(model):
            raise UsageError("targets.patch compares a patch with a text: it needs an image-text model")
        height, width = outputs.shape[-2:]
        if not (0 <= self.row < height and 0 <= self.column < width):
            raise UsageError(f"patch ({self.row}, {self.column}) is outside the grid of {height} x {width} patches")
        rows = _encode(model, [self.text]).to(outputs)
        return lambda dense: (F.normalize(dense[:, :, self.row, self.column], dim=-1) * rows).sum(dim=-1)


@dataclass(frozen=True)
class token:
    """Cosine between the image and one word of a text: the state of its last token, projected like the sentence.

    In a causal text tower a word's state knows the words before it, not those after.

    Args:
        text: the whole text.
        word: one of its words, as written there; the first of equal ones.
    """

    text: str
    word: str

    def bind(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        """Encode the text and pick the word's state."""
        if not is_image_text(model):
            raise UsageError("targets.token explains a word of a text: it needs an image-text model")
        words = self.text.split()
        if self.word not in words:
            raise UsageError(f"word {self.word!r} is none of the text's: {', '.join(words)}")
        before = " ".join(words[: words.index(self.word) + 1])
        refuse_cut(model, [self.text])
        _need_cosines(model)
        tower, ids = model.text_tower, model.tokenize([self.text])
        # The end token closes the shorter text one place after the word's last token.
        place = int(model.tokenize([before]).mask.sum()) - 1
        place -= int(model.tokenizer.end_id is not None)
        with torch.no_grad():
            states = tower.states(tower.run(tower.embed(ids)))
            row = F.normalize(tower.project(states[:, place]).float(), dim=-1).to(outputs)
        return lambda features: (F.normalize(features, dim=-1) * row).sum(dim=-1)


@dataclass(frozen=True)
class probability:
    """The softmax probability of a class, or of a text among other texts (with the model's logit scale).

    Args:
        target: for a classifier a class index or name, one for each image, or None for the predicted class; for an
            image-text model a text, or one an image.
        others: what it competes with: texts for an image-text model; for a classifier names of classes, or None for all
            of them. A text among its own others counts once.
    """

    target: Any = None
    others: Sequence[str] | None = None

    def bind(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        """Encode all texts, or find the classes."""
        if isinstance(self.others, str):
            raise UsageError("targets.probability: others must be a list of texts, not one text")
        if is_image_text(model):
            return self._among_texts(model, outputs)
        names = [self.target] if isinstance(self.target, str) else self.target
        if isinstance(names, (list, tuple)) and names and isinstance(names[0], str):
            names = [_class_index(model, name, outputs.shape[1]) for name in names]
        chosen = _indices(names, outputs)
        kept = torch.ones_like(outputs, dtype=torch.bool)
        if self.others is not None:
            kept = torch.zeros_like(kept).scatter(1, chosen[:, None], True)
            kept[:, [_class_index(model, name, outputs.shape[1]) for name in self.others]] = True
        return lambda logits: _chance(logits, kept, chosen)

    def _among_texts(self, model: Any, outputs: Float[Tensor, "B K"]) -> Score:
        given = self.target if isinstance(self.target, (list, tuple)) else [self.target]
        texts = [t for t in given if isinstance(t, str)]
        if not self.others or not texts or len(texts) < len(given):
            raise UsageError(
                f"targets.probability({self.target!r}): an image-text model has no classes; give a text and "
                "others=[...], the texts it competes with, or explain model.predictor(labels)"
            )
        if len(texts) not in (1, len(outputs)):
            raise UsageError(f"{len(texts)} texts for {len(outputs)} images: give one text, or one for each image")
        names = list(dict.fromkeys([*texts, *self.others]))
        rows = float(model.scale().detach()) * _encode(model, names).to(outputs)
        chosen = torch.tensor([names.index(t) for t in texts], device=outputs.device).expand(len(outputs))
        kept = torch.tensor([name in set(self.others) for name in names], device=outputs.device)
        kept = kept.repeat(len(outputs), 1).scatter(1, chosen[:, None], True)
        return lambda features: _chance(F.normalize(features, dim=-1) @ rows.T, kept, chosen)


def resolve(model: Any, target: Any, outputs: Float[Tensor, "B K *grid"]) -> Score:
    """The score function that `target` means for this model.

    Args:
        model: the explained model.
        target: a text (or one an image), a class index (or one an image), a `Target`, a callable from outputs (B, K) to
            scores (B,), or None for the predicted class of each image.
        outputs: of the clean images.

    Raises:
        UsageError: no such class, a number or None where there are no classes, or a target of another kind.
    """
    if isinstance(target, str) or (isinstance(target, (list, tuple)) and target and isinstance(target[0], str)):
        target = text(target)
    if hasattr(target, "bind"):
        return target.bind(model, outputs)
    if callable(target):
        return target
    if is_image_text(model):
        what = "None" if target is None else f"{target!r}"
        raise UsageError(
            f"target={what}: an image-text model has no classes; give a text, or explain model.predictor(labels)"
        )
    return _pick(target, outputs)


def is_image_text(model: Any) -> bool:
    """Whether the model embeds images and texts (and so has features, not logits)."""
    return hasattr(model, "encode_image") and hasattr(model, "encode_text")


def _encode(model: Any, texts: Sequence[str]) -> Tensor:
    if not all(isinstance(t, str) and t.strip() for t in texts):
        raise UsageError("the text to explain is empty")
    refuse_cut(model, texts)
    _need_cosines(model)
    with torch.no_grad():
        return F.normalize(model.encode_text(list(texts)), dim=-1)


def _need_cosines(model: Any) -> None:
    """What is explained of an image-text model is a cosine; one that was trained to compare otherwise is refused."""
    if not getattr(getattr(model, "geometry", None), "angular", True):
        model.need_cosines("an explanation by text")


def refuse_cut(model: Any, texts: Sequence[str]) -> None:
    """An explanation of words that the model never read would mislead, so an over-long text is an error.

    Raises:
        UsageError: a text with more tokens than the model reads.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not hasattr(tokenizer, "encode"):
        return
    _, _, cut = tokenizer.encode(list(texts))
    if cut:
        raise UsageError(
            f"the text {texts[cut[0]][:60]!r} is longer than the {tokenizer.context_length} tokens this model reads: "
            "shorten it"
        )


def _class_index(model: Any, name: str, count: int) -> int:
    classes = list(getattr(model, "classes", []))
    if not classes:
        raise UsageError(f"target={name!r}: this model has no class names; give an index from 0 to {count - 1}")
    if name not in classes:
        shown = ", ".join(map(str, classes[:8])) + (" ..." if len(classes) > 8 else "")
        raise UsageError(f"target={name!r} is none of the model's classes: {shown}")
    return classes.index(name)


def _pick(target: Any, outputs: Float[Tensor, "B K"]) -> Score:
    chosen = _indices(target, outputs)
    return lambda logits: logits.gather(1, chosen[:, None]).squeeze(1)


def _indices(target: Any, outputs: Float[Tensor, "B K"]) -> Int[Tensor, "B"]:
    """A class for each image: one index for all, one each, or None for the predicted ones."""
    if target is None:
        return outputs.argmax(dim=-1)
    rows = torch.as_tensor(target)
    if rows.is_floating_point() or rows.ndim > 1:
        raise UsageError(f"target={target!r}: give a class index, one for each image, a text, or a callable")
    indices, (batch, count) = rows.reshape(-1).tolist(), outputs.shape
    if len(indices) not in (1, batch):
        raise UsageError(f"{len(indices)} targets for {batch} images: give one, or one for each image")
    for index in indices:
        if not 0 <= index < count:
            raise UsageError(f"target={index} is not a class: there are {count} (0 to {count - 1})")
    return torch.tensor(indices * batch if len(indices) == 1 else indices, device=outputs.device)


def _chance(logits: Float[Tensor, "B K"], kept: Bool[Tensor, "B K"], chosen: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    competing = logits.masked_fill(~kept, -torch.inf)
    return competing.softmax(dim=-1).gather(1, chosen[:, None]).squeeze(1)


def _margin(scores: Float[Tensor, "B K"], index: int, others: Sequence[int] | None) -> Float[Tensor, "B"]:
    keep = [i for i in range(scores.shape[1]) if i != index] if others is None else list(others)
    return scores[:, index] - scores[:, keep].amax(dim=-1)
