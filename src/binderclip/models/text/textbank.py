"""The text side of every classifier: sentences encoded once, grouped by class.

A `TextBank` keeps the raw features of all sentences and which class owns each, so that zero-shot rules, few-shot
priors, segmentation queries and quality poles read the same rows and differ only in how they reduce them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from binderclip.errors import NotSupported, UsageError
from binderclip.models.text.templates import fill, resolve_templates
from binderclip.settings import check_choice
from binderclip.similarity.geometry import Cosine, Similarity

Rule = Literal["mean-unit", "mean", "mean-raw-unit"]


def descriptors(
    labels: Sequence[str] | Mapping[str, Sequence[str]], templates: str | Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Class name -> sentences, in the order given.

    Args:
        labels: class names, or class name -> its sentences (several names or descriptions of one class).
        templates: put around every name or sentence; None leaves them as they are.

    Raises:
        UsageError: no label, an empty label, a label twice, or a class without sentences.
    """
    if isinstance(labels, str):
        raise UsageError(f"labels must be a list of names, not the single text {labels!r}: write [{labels!r}]")
    names = list(labels)
    if not names:
        raise UsageError("labels is empty: give at least one class name")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"labels holds {name!r}: every label must be a non-empty text")
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise UsageError(f"labels names {', '.join(map(repr, doubled[:5]))} more than once")
    sentences = {name: list(labels[name]) for name in names} if isinstance(labels, Mapping) else {n: [n] for n in names}
    for name, own in sentences.items():
        if isinstance(labels, Mapping) and isinstance(labels[name], str):
            raise UsageError(f"the sentences of {name!r} must be a list, not one text")
        if not own or not all(isinstance(s, str) and s.strip() for s in own):
            raise UsageError(f"class {name!r} needs at least one non-empty sentence, got {own!r}")
    patterns = resolve_templates(templates)
    return {name: [fill(pattern, s) for s in own for pattern in patterns] for name, own in sentences.items()}


def _check_rule(rule: str) -> None:
    check_choice("rule", rule, get_args(Rule))


@dataclass(frozen=True)
class TextBank:
    """Encoded sentences of C classes, Q sentences in all, width E.

    Args:
        names: the C class names.
        texts: the Q sentences.
        raw: (Q, E) features as the text tower gives them, not normalised, float32 or better.
        owner: (Q,) index of the class each sentence belongs to.
        scale: 0-dim, the model's own logit scale (the factor, not its logarithm).
        bias: 0-dim, the model's logit bias (SigLIP), or None.
        background_names: the classes that stand for background, a subset of `names`.
        geometry: what the model compares by, None for cosines. With another one `logits`, `similarities` and
            `class_points` serve, and what gives unit rows to be compared by cosine is refused.
    """

    names: list[str]
    texts: list[str]
    raw: Float[Tensor, "Q E"]
    owner: Int[Tensor, "Q"]
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""] | None = None
    background_names: tuple[str, ...] = ()
    geometry: Similarity | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", list(self.names))
        object.__setattr__(self, "texts", list(self.texts))
        object.__setattr__(self, "scale", torch.as_tensor(self.scale, dtype=torch.float32))
        if self.raw.ndim != 2 or len(self.texts) != len(self.raw) or self.owner.shape != self.raw.shape[:1]:
            raise UsageError(
                f"a TextBank needs one row and one owner a sentence: {len(self.texts)} texts, raw "
                f"{tuple(self.raw.shape)}, owner {tuple(self.owner.shape)}"
            )
        if len(set(self.names)) < len(self.names):
            raise UsageError("a TextBank cannot hold the same class name twice")
        counts = torch.bincount(self.owner.cpu(), minlength=len(self.names))
        if len(counts) > len(self.names) or bool((counts == 0).any()):
            raise UsageError("every class of a TextBank needs at least one sentence, and every owner a class")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def counts(self) -> Int[Tensor, "C"]:
        """(C,) sentences a class."""
        return torch.bincount(self.owner, minlength=len(self.names))

    @property
    def unit(self) -> Float[Tensor, "Q E"]:
        """(Q, E) rows of length one.

        Raises:
            NotSupported: the bank is of a model that does not compare by cosine.
        """
        self._need_cosines()
        return functional.normalize(self.raw, dim=-1)

    @property
    def norms(self) -> Float[Tensor, "Q"]:
        """(Q,) lengths before normalisation."""
        return self.raw.norm(dim=-1)

    @property
    def background(self) -> Bool[Tensor, "C"]:
        """(C,) True where a class stands for background."""
        return torch.tensor([name in self.background_names for name in self.names], device=self.raw.device)

    def padded(self) -> tuple[Float[Tensor, "C K E"], Bool[Tensor, "C K"]]:
        """Unit rows as (C, K, E), zero where a class has fewer than K sentences, and the (C, K) mask of real ones."""
        return self._padded(self.unit), self._padded(torch.ones_like(self.owner, dtype=torch.bool))

    def padded_offsets(self) -> Float[Tensor, "C K"]:
        """What the model's similarity takes off the cosine with each row of `padded`, zero where there is none.

        Raises:
            NotSupported: the bank is of a model that does not compare by cosine.
        """
        return self._padded(self._offsets(self.raw))

    def _padded(self, values: Shaped[Tensor, "Q *k"]) -> Shaped[Tensor, "C K *k"]:
        counts = self.counts
        order = torch.argsort(self.owner, stable=True)
        first = torch.cumsum(counts, 0) - counts
        slot = torch.empty_like(self.owner)
        slot[order] = torch.arange(len(order), device=order.device) - first[self.owner[order]]
        padded = values.new_zeros(len(self.names), int(counts.max()), *values.shape[1:])
        return padded.index_put((self.owner, slot), values)

    def _offsets(self, features: Float[Tensor, "k E"]) -> Float[Tensor, "k"]:
        self._need_cosines()
        return (self.geometry or Cosine()).offset(features, "text")

    def _need_cosines(self) -> None:
        if self.geometry is not None and not self.geometry.angular:
            raise NotSupported(
                f"this works by cosines of texts, and the model compares by {self.geometry}; classify, search and "
                "evaluate do so too"
            )

    def _class_means(self, rows: Float[Tensor, "Q E"]) -> Float[Tensor, "C E"]:
        sums = rows.new_zeros(len(self.names), rows.shape[1]).index_add(0, self.owner, rows)
        return sums / self.counts[:, None].to(rows.dtype)

    @property
    def raw_means(self) -> Float[Tensor, "C E"]:
        """(C, E) mean of each class's raw features, not normalised: for geometries in which lengths have a meaning."""
        return self._class_means(self.raw)

    def prototypes(self, rule: Rule = "mean-unit") -> Float[Tensor, "C E"]:
        """One row a class.

        Args:
            rule: `mean-unit` normalises each sentence, averages, normalises again (the CLIP paper's classifier);
                `mean` leaves the average as it is, so a dot product is the mean of cosines; `mean-raw-unit` averages
                the raw features, then normalises.

        Raises:
            UsageError: an unknown rule.
            NotSupported: the bank is of a model that does not compare by cosine.
        """
        _check_rule(rule)
        if rule == "mean-unit":
            return functional.normalize(self._class_means(self.unit), dim=-1)
        if rule == "mean":
            return self._class_means(self.unit)
        self._need_cosines()
        return functional.normalize(self._class_means(self.raw), dim=-1)

    def offsets(self, rule: Rule = "mean-unit") -> Float[Tensor, "C"]:
        """(C,) what the model's similarity takes off the cosine with each class, whatever the picture; else 0.

        `features @ prototypes(rule).T - offsets(rule)` ranks the classes of a picture as `similarities` does.

        Args:
            rule: as of `prototypes`.

        Raises:
            UsageError: an unknown rule.
            NotSupported: the bank is of a model that does not compare by cosine.
        """
        _check_rule(rule)
        if rule == "mean":
            return self._class_means(self._offsets(self.raw)[:, None]).squeeze(1)
        return self._offsets(self._class_means(self.unit if rule == "mean-unit" else self.raw))

    def class_points(
        self, geometry: Similarity | None = None, rule: Literal["mean-unit", "mean-raw-unit"] = "mean-unit"
    ) -> Float[Tensor, "C e"]:
        """One point of the geometry a class.

        Where lengths mean nothing, the sentences' points are averaged and brought back to the sphere, with
        `mean-raw-unit` their raw features; where lengths mean something, raw features are averaged in any case.

        Args:
            geometry: instead of the bank's own.
            rule: see above.
        """
        geometry = geometry or self.geometry or Cosine()
        if geometry.spherical and rule == "mean-unit":
            points = geometry.embed(self.raw, "text")  # (Q, e)
            return functional.normalize(self._class_means(points), dim=-1)
        if geometry.angular and rule == "mean-unit":
            return geometry.embed(self._class_means(functional.normalize(self.raw, dim=-1)), "text")
        return geometry.embed(self.raw_means, "text")

    def similarities(self, features: Float[Tensor, "... E"], rule: Rule = "mean-unit") -> Float[Tensor, "... C"]:
        """How alike image features and classes are, in the model's geometry, without scale and bias.

        Args:
            features: (..., E), raw; for cosines of any length.
            rule: how sentences become one score a class; `mean` is the mean over a class's sentences.

        Raises:
            UsageError: an unknown rule, or features of another width.
        """
        _check_rule(rule)
        if features.shape[-1] != self.raw.shape[-1]:
            raise UsageError(
                f"features have width {features.shape[-1]}, the text bank {self.raw.shape[-1]}: they come from "
                "different models"
            )
        features = features.to(self.raw.dtype)
        if self.geometry is None:
            return functional.normalize(features, dim=-1) @ self.prototypes(rule).T
        points = self.geometry.embed(features.reshape(-1, features.shape[-1]), "image")
        if rule == "mean":
            each = self.geometry(points, self.geometry.embed(self.raw, "text"))  # (N, Q)
            similarities = self._class_means(each.T).T
        else:
            similarities = self.geometry(points, self.class_points(rule=rule))
        return similarities.reshape(*features.shape[:-1], len(self.names))

    def logits(
        self, features: Float[Tensor, "... E"], rule: Rule = "mean-unit", scale: float | Tensor | None = None
    ) -> Float[Tensor, "... C"]:
        """Scaled similarities (plus the bias, where the model has one) of image features with the classes.

        Args:
            features: (..., E), raw; for cosines of any length.
            rule: how sentences become one score a class.
            scale: factor on the similarities; None is the model's own.

        Raises:
            UsageError: as `similarities`.
        """
        logits = (self.scale if scale is None else scale) * self.similarities(features, rule)
        return logits if self.bias is None else logits + self.bias

    def align(self, classes: Sequence[str]) -> TextBank:
        """The same bank with its classes in the order of `classes`.

        Raises:
            UsageError: a class is missing here, or the bank holds others.
        """
        names = [str(name) for name in classes]
        missing = [name for name in names if name not in self.names]
        extra = [name for name in self.names if name not in set(names)]
        if missing or extra or len(set(names)) < len(names):
            parts = [f"missing from the text bank: {missing[:5]}"] * bool(missing)
            parts += [f"only in the text bank: {extra[:5]}"] * bool(extra)
            raise UsageError("classes do not match the text bank; " + ("; ".join(parts) or "a class is named twice"))
        return self.select(names)

    def select(self, names: Sequence[str]) -> TextBank:
        """The sub-bank of some classes, in the order given.

        Raises:
            UsageError: a name that the bank does not hold.
        """
        index = {name: i for i, name in enumerate(self.names)}
        unknown = [name for name in names if name not in index]
        if unknown:
            raise UsageError(f"the text bank has no class {unknown[0]!r}; it holds {', '.join(self.names[:8])}")
        owner = self.owner.tolist()
        rows = [q for name in names for q, o in enumerate(owner) if o == index[name]]
        place = {index[name]: i for i, name in enumerate(names)}
        return replace(
            self,
            names=list(names),
            texts=[self.texts[q] for q in rows],
            raw=self.raw[rows],
            owner=torch.tensor([place[owner[q]] for q in rows], device=self.owner.device),
            background_names=tuple(name for name in self.background_names if name in names),
        )

    def extend(self, other: TextBank) -> TextBank:
        """This bank with the classes of another behind it; the rows held already are untouched.

        Raises:
            UsageError: a class is in both, or the widths differ.
        """
        repeated = [name for name in other.names if name in self.names]
        if repeated:
            raise UsageError(f"the text bank already holds {', '.join(map(repr, repeated[:5]))}")
        if other.raw.shape[1] != self.raw.shape[1]:
            raise UsageError(
                f"cannot extend a text bank of width {self.raw.shape[1]} with one of width {other.raw.shape[1]}: "
                "they come from different models"
            )
        return replace(
            self,
            names=self.names + other.names,
            texts=self.texts + other.texts,
            raw=torch.cat([self.raw, other.raw.to(self.raw)]),
            owner=torch.cat([self.owner, other.owner.to(self.owner) + len(self.names)]),
            background_names=self.background_names + other.background_names,
        )

    def to(self, device: torch.device | str) -> TextBank:
        """The same bank on another device."""
        return replace(
            self,
            raw=self.raw.to(device),
            owner=self.owner.to(device),
            scale=self.scale.to(device),
            bias=None if self.bias is None else self.bias.to(device),
            geometry=None if self.geometry is None else copy.deepcopy(self.geometry).to(device),
        )
