"""What is explained: one number a sample, computed from the model's output.

The output of an image-text model is its image features, of anything else its logits. Targets whose class attribute `on`
is "dense" read the map of patch features in the shared space (B, E, h, w) instead. A target is resolved once, on the
clean images, before any image is perturbed; texts are encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

Score: TypeAlias = Callable[[Tensor], Tensor]


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
        wanted = _class_index(model, self.text, outputs.shape[1])
        others = None if self.others is None else [_class_index(model, n, outputs.shape[1]) for n in self.others]
        return lambda logits: _margin(logits, wanted, others)


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
        tower, ids = model.text_tower, model.tokenize([self.text])
        # The end token closes the shorter text one place after the word's last token.
        place = int(model.tokenize([before]).mask.sum()) - 1
        place -= int(model.tokenizer.end_id is not None)
        with torch.no_grad():
            states = tower.states(tower.run(tower.embed(ids)))
            row = F.normalize(tower.project(states[:, place]).float(), dim=-1).to(outputs)
        return lambda features: (F.normalize(features, dim=-1) * row).sum(dim=-1)


def resolve(model: Any, target: Any, outputs: Float[Tensor, "B K"]) -> Score:
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
    if target is None:
        return _pick(outputs.argmax(dim=-1).tolist(), outputs)
    indices = torch.as_tensor(target)
    if indices.is_floating_point() or indices.ndim > 1:
        raise UsageError(f"target={target!r}: give a class index, one for each image, a text, or a callable")
    return _pick(indices.reshape(-1).tolist(), outputs)


def is_image_text(model: Any) -> bool:
    """Whether the model embeds images and texts (and so has features, not logits)."""
    return hasattr(model, "encode_image") and hasattr(model, "encode_text")


def _encode(model: Any, texts: Sequence[str]) -> Tensor:
    if not all(isinstance(t, str) and t.strip() for t in texts):
        raise UsageError("the text to explain is empty")
    refuse_cut(model, texts)
    with torch.no_grad():
        return F.normalize(model.encode_text(list(texts)), dim=-1)


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


def _pick(indices: list[int], outputs: Float[Tensor, "B K"]) -> Score:
    batch, count = outputs.shape
    if len(indices) not in (1, batch):
        raise UsageError(f"{len(indices)} targets for {batch} images: give one, or one for each image")
    for index in indices:
        if not 0 <= index < count:
            raise UsageError(f"target={index} is not a class: there are {count} (0 to {count - 1})")
    chosen = torch.tensor(indices * batch if len(indices) == 1 else indices, device=outputs.device)
    return lambda logits: logits.gather(1, chosen[:, None]).squeeze(1)


def _margin(scores: Float[Tensor, "B K"], wanted: int, others: Sequence[int] | None) -> Float[Tensor, "B"]:
    keep = [i for i in range(scores.shape[1]) if i != wanted] if others is None else list(others)
    return scores[:, wanted] - scores[:, keep].amax(dim=-1)
