"""The text side of segmentation: every class is known by one or several words, some of which may be background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from binderclip.errors import UsageError
from binderclip.models.text.templates import fill, resolve_templates
from binderclip.numeric import check_number
from binderclip.settings import check_choice

GROUND = (
    "background", "sky", "wall", "floor", "ground", "grass", "water", "road", "a plain background", "a pattern",
    "a texture", "a landscape",
)  # fmt: skip
"""Background words for those who name none: what is behind and below things. Leave out those that are labels."""

Normalise = Literal["channels", "tokens"]
Labels = Sequence[str] | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class BoundText:
    """Labels as vectors.

    Attributes:
        classes: names; the background class, if there is one, is the first.
        rows: (Q, E), one a word; of unit length unless mixed with descriptions.
        owner: (Q,) class of each word.
        scale: the model's logit scale.
        background: whether `classes[0]` stands for background.
        normalise: see `TextSide`.
        words: (Q) as they were given, without templates; empty where only vectors are known.
    """

    classes: tuple[str, ...]
    rows: Tensor
    owner: Tensor
    scale: float
    background: bool = False
    normalise: Normalise = "channels"
    words: tuple[str, ...] = ()

    def cosines(self, dense: Float[Tensor, "B E h w"], *, normalised: bool = False) -> Float[Tensor, "B Q h w"]:
        """Words against every cell of a dense map."""
        cells = dense.float().flatten(2).mT  # (B, N, E)
        if self.normalise == "tokens" and not normalised:
            cells = cells / cells.norm(dim=1, keepdim=True).clamp(min=1e-12)  # each channel over all cells
        scores = cells @ self.rows.T
        if not normalised and self.normalise == "channels":
            scores = scores / cells.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return scores.mT.unflatten(2, (dense.shape[-2], dense.shape[-1]))


@dataclass(frozen=True)
class TextSide:
    """How labels become vectors.

    Args:
        templates: around every word, as in `text_bank`; None for the model's plain ones.
        background: words for what is none of the labels; together they are one class, the first, named `background`.
        auxiliary: class -> a description or definition of it, or several, mixed into its words' vectors.
        alpha: share of the auxiliary text, in [0, 1]; the mixture is not normalised again.
        redundant: None, or a text whose direction is taken off every word's vector (CLIP Surgery's is "", put into the
            templates as a word is). What all words lose alike changes single maps, not which word is best.
        normalise: "channels" makes every cell's vector one of unit length, so that scores are cosines; "tokens" divides
            every channel by its length over all cells of the window instead, as the releases of GenSAM and Zip and an
            early one of CLIP Surgery do (there the class token is one of the cells).

    Raises:
        UsageError: background is a single text, alpha out of range, or another way to normalise.
    """

    templates: str | tuple[str, ...] | None = None
    background: tuple[str, ...] = ()
    auxiliary: Mapping[str, str | Sequence[str]] | None = field(default=None, hash=False)
    alpha: float = 0.0
    redundant: str | None = None
    normalise: Normalise = "channels"

    def __post_init__(self) -> None:
        if isinstance(self.background, str):
            raise UsageError(f"background must be a list of words, not the text {self.background!r}")
        check_number("alpha", self.alpha, least=0, most=1)
        check_choice("normalise", self.normalise, ("channels", "tokens"))

    @torch.no_grad()
    def bind(self, model: Any, labels: Labels) -> BoundText:
        """Encode the words once.

        Raises:
            UsageError: no label, an empty or doubled one, or one that is also the background.
        """
        words = self._words(labels)
        flat = [word for own in words.values() for word in own]
        rows = self._encoded(model, flat)
        owner = [index for index, own in enumerate(words.values()) for _ in own]
        if self.alpha and self.auxiliary:
            rows = self._mixed(model, rows, list(words), owner)
        if self.redundant is not None:
            rows = rows - self._direction(model, self.redundant)
        bound = BoundText(
            tuple(words), rows, torch.tensor(owner, device=rows.device), float(model.scale()), bool(self.background),
            self.normalise, tuple(flat),
        )  # fmt: skip
        return bound

    def _words(self, labels: Labels) -> dict[str, list[str]]:
        if isinstance(labels, str):
            raise UsageError(f"labels must be a list of names, not the single text {labels!r}: write [{labels!r}]")
        words = {n: list(labels[n]) for n in labels} if isinstance(labels, Mapping) else {n: [n] for n in labels}
        if not words or (not isinstance(labels, Mapping) and len(words) < len(labels)):
            raise UsageError("labels is empty" if not words else "labels names a class twice")
        if self.background:
            if "background" in words:
                raise UsageError("'background' is both a label and the name of the background class")
            words = {"background": list(self.background), **words}
        return words

    def _encoded(self, model: Any, words: Sequence[str]) -> Float[Tensor, "Q E"]:
        bank = model.text_bank(list(dict.fromkeys(words)), self.templates)
        place = {name: index for index, name in enumerate(bank.names)}
        return bank.prototypes()[[place[word] for word in words]].float()

    def _direction(self, model: Any, text: str) -> Float[Tensor, "1 E"]:
        """One text in the templates of the words; it may be empty, which no label may."""
        sentences = [fill(template, text) for template in resolve_templates(self.templates)]
        return normalize(model.encode_text(sentences, normalize=True).mean(0, keepdim=True), dim=-1).float()

    def _mixed(self, model: Any, rows: Tensor, classes: Sequence[str], owner: Sequence[int]) -> Tensor:
        assert self.auxiliary is not None
        rows = rows.clone()
        for index, name in enumerate(classes):
            if name not in self.auxiliary or (self.background and index == 0):
                continue
            text = self.auxiliary[name]
            extra = self._encoded(model, [text] if isinstance(text, str) else list(text)).mean(0)
            mine = [q for q, o in enumerate(owner) if o == index]
            rows[mine] = (1 - self.alpha) * rows[mine] + self.alpha * extra
        return rows

    def with_(self, **changes: Any) -> TextSide:
        """The same with some settings changed."""
        return replace(self, **changes)
