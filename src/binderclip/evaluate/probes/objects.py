"""Which of several objects an embedding is nearest to: by place and size in pictures, by order in captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.settings import check_choice

EncodeTexts: TypeAlias = "Callable[[list[str]], Tensor]"
Replaced: TypeAlias = Literal["biased", "other"]


@dataclass(frozen=True)
class ObjectRetrieval:
    """What `ObjectRetrievalProbe` found.

    Attributes:
        top_n: share of scenes whose n nearest references are all in the scene.
        dominance: (n,) share of scenes in which the object of each slot is the nearest of the scene's own; 1 / n each
            where no slot counts more. Equally near ones share.
        dominance_if_right: the same over scenes that count in `top_n`; NaN without one.
        by_scene: (N, n) the shares of each scene, for intervals.
        precision: mean share of the n nearest references that are in the scene; recall and F1 are the same number.
        average_precision, ndcg: means over scenes, of the ranking of all references.
    """

    top_n: float
    dominance: Float[np.ndarray, "n"]
    dominance_if_right: Float[np.ndarray, "n"]
    by_scene: Float[np.ndarray, "N n"]
    precision: float
    average_precision: float
    ndcg: float


@dataclass(frozen=True, eq=False)
class ObjectRetrievalProbe:
    """Compare embeddings of several objects with those of single ones, by cosine.

    For pictures the references are pictures of one object each, for captions the words themselves. The released code
    computes average precision and NDCG on the n retrieved ones with the worst first; here they are those of the whole
    ranking. Its text scripts count the nearest of all references, here that of the scene's own objects.

    Paper: Abbasi et al., CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation (arXiv
    2502.19842), image- and text-based object retrieval.

    Args:
        references: (K, E) embeddings, one a class, raw or of length one.

    Raises:
        UsageError: fewer than two references, or one that is zero or not finite.
    """

    references: Float[Tensor, "K E"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", _unit(self.references, "references", 2))

    def __call__(self, features: Float[Tensor, "N E"], contents: Int[np.ndarray, "N n"]) -> ObjectRetrieval:
        """Measure embeddings.

        Args:
            features: of the scenes, raw or of length one.
            contents: class of the object in each slot, or in the order of mention.

        Raises:
            UsageError: shapes that do not fit, classes outside, or an object twice in a scene.
        """
        scores = (_unit(features, "features", 1) @ self.references.T).numpy()  # (N, K)
        held = _contents(contents, scores.shape)
        own = np.take_along_axis(scores, held, axis=1)  # (N, n)
        nearest = own >= own.max(axis=1, keepdims=True) - 1e-9
        shares = nearest / nearest.sum(axis=1, keepdims=True)
        order = np.argsort(-scores, axis=1, kind="stable")
        hit = (order[:, :, None] == held[:, None]).any(axis=2)  # (N, K) by rank
        n, rank = held.shape[1], np.arange(1, scores.shape[1] + 1)
        right = hit[:, :n].all(axis=1)
        gain = 1 / np.log2(rank + 1)
        return ObjectRetrieval(
            float(right.mean()),
            shares.mean(axis=0),
            shares[right].mean(axis=0) if right.any() else np.full(n, np.nan),
            shares,
            float(hit[:, :n].mean()),
            float(((hit.cumsum(axis=1) / rank) * hit).sum(axis=1).mean() / n),
            float((hit @ gain).mean() / gain[:n].sum()),
        )


@dataclass(frozen=True)
class ObjectClassificationProbe:
    """Train a linear classifier for every slot on frozen embeddings: what can be read of each object.

    Softmax with a bias on unit embeddings, Adam, as in the paper (images: 25 epochs; captions: 10, 75 % of them).

    Paper: Abbasi et al., CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation (arXiv
    2502.19842), image- and text-based object classification.

    Args:
        classes: K.
        train: share of the scenes that is trained on, the first ones of a random order.
        epochs, batch, lr: of Adam.
        seed: of the order and the batches; weights start at zero.

    Raises:
        UsageError: fewer than two classes, or a share outside (0, 1).
    """

    classes: int
    train: float = 0.8
    epochs: int = 25
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.classes < 2 or not 0 < self.train < 1:
            raise UsageError(f"classes is {self.classes}, at least 2; train is {self.train}, between 0 and 1")

    def __call__(self, features: Float[Tensor, "N E"], contents: Int[np.ndarray, "N n"]) -> Float[np.ndarray, "n"]:
        """Accuracy on the scenes left out, of each slot.

        Args:
            features, contents: as for `ObjectRetrievalProbe`.

        Raises:
            UsageError: as there, or too few scenes for both parts.
        """
        from binderclip.fit import fit

        x = _unit(features, "features", 2).float()
        y = torch.from_numpy(_contents(contents, (len(x), self.classes)))  # (N, n)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        cut = round(self.train * len(x))
        if not 0 < cut < len(x):
            raise UsageError(f"{len(x)} scenes cannot be split at {self.train}")
        own, held = order[:cut], order[cut:]
        slots = y.shape[1]
        # the heads of all slots together: no weight is shared, so each is trained as if alone
        heads = nn.Linear(x.shape[1], slots * self.classes)
        nn.init.zeros_(heads.weight)
        nn.init.zeros_(heads.bias)

        def step(rows: Tensor) -> Tensor:
            logits = heads(x[rows]).reshape(-1, self.classes)  # (b n, K)
            return slots * F.cross_entropy(logits, y[rows].flatten())

        generator = torch.Generator().manual_seed(self.seed + 1)
        batches = [
            own[part] for _ in range(self.epochs) for part in torch.randperm(cut, generator=generator).split(self.batch)
        ]
        fit(step, heads, batches, steps=len(batches), optimizer="adam", lr=self.lr, schedule="constant")
        with torch.no_grad():
            predicted = heads(x[held]).reshape(len(held), slots, self.classes).argmax(dim=2)
        return (predicted == y[held]).double().mean(dim=0).numpy()


@dataclass(frozen=True)
class OrderSensitivity:
    """What `OrderSensitivityProbe` found.

    Attributes:
        first: share of right choices where the right caption has the large object first.
        last: the same where it has it last and the wrong caption has it first.
        by_scene: (N, 2) both, averaged over the wrong captions of each scene.
    """

    first: float
    last: float
    by_scene: Float[np.ndarray, "N 2"]

    @property
    def difference(self) -> float:
        """How much the order of the right caption costs."""
        return self.first - self.last


@dataclass(frozen=True, eq=False)
class OrderSensitivityProbe:
    """Tell a right caption from one with a wrong object, where the order is for or against the right one.

    Captions name the objects, joined by " and ". First: the large object changes places with the first, and the wrong
    caption has an absent object in its place. Last: in the right caption the large object changes places with the last;
    in the wrong one it comes first, and the last one is replaced. So an encoder that hears the first object most, and a
    picture that shows the large one most, are right in the first case and wrong in the second.

    Paper: Abbasi et al., CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation (arXiv
    2502.19842), image-text matching.

    Args:
        classes: K names, as they are to stand in captions.
        encode: texts to embeddings (T, E); every different caption is encoded once.
        replaced: in the first case the "biased" object, or an "other" one, the last.
        absent: wrong captions of a scene, drawn at random; None: all K - n, as in the paper.
        seed: of the draws.

    Raises:
        UsageError: fewer than three classes, or no wrong caption.
    """

    classes: Sequence[str]
    encode: EncodeTexts
    replaced: Replaced = "biased"
    absent: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.classes) < 3 or (self.absent is not None and self.absent < 1):
            raise UsageError(f"{len(self.classes)} classes, at least 3; absent is {self.absent}, at least 1")
        check_choice("replaced", self.replaced, ("biased", "other"))

    def captions(self, objects: Sequence[int], biased: int, wrong: int) -> tuple[tuple[str, str], tuple[str, str]]:
        """The right and the wrong caption of both cases.

        Args:
            objects: classes in the order of the slots. biased: the slot of the large one. wrong: an absent class.
        """
        front, back = list(objects), list(objects)
        front[0], front[biased] = front[biased], front[0]
        back[-1], back[biased] = back[biased], back[-1]
        ahead, behind = [wrong, *front[1:]], [*front[:-1], wrong]

        def said(order: Sequence[int]) -> str:
            return " and ".join(self.classes[place] for place in order)

        return (said(front), said(ahead if self.replaced == "biased" else behind)), (said(back), said(behind))

    def __call__(
        self, images: Float[Tensor, "N E"], contents: Int[np.ndarray, "N n"], biased: int | Sequence[int]
    ) -> OrderSensitivity:
        """Measure pictures.

        Args:
            images: embeddings of the scenes.
            contents: as for `ObjectRetrievalProbe`.
            biased: the slot of the large object, one for all or one a scene.

        Raises:
            UsageError: as there, a slot outside, or no absent class.
        """
        held = _contents(contents, (len(images), len(self.classes)))
        count, n = held.shape
        slots = np.broadcast_to(np.asarray(biased), (count,))
        if n >= len(self.classes) or not ((slots >= 0) & (slots < n)).all():
            raise UsageError(f"{len(self.classes)} classes for {n} objects, biased slots {sorted(set(slots.tolist()))}")
        rng, asked = np.random.default_rng(self.seed), []
        for row, (objects, slot) in enumerate(zip(held.tolist(), slots.tolist(), strict=True)):
            others = [place for place in range(len(self.classes)) if place not in objects]
            if self.absent is not None:
                others = rng.permutation(others)[: self.absent].tolist()
            asked += [(row, self.captions(objects, slot, wrong)) for wrong in others]
        place = {text: number for number, text in enumerate(dict.fromkeys(
            text for _, cases in asked for case in cases for text in case))}  # fmt: skip
        with torch.no_grad():
            texts = _unit(self.encode(list(place)), "texts", 1)
            scores = _unit(images, "images", 1) @ texts.T
        sums, number = np.zeros((count, 2)), np.zeros((count, 1))
        for row, cases in asked:
            sums[row] += [float(scores[row, place[right]] > scores[row, place[wrong]]) for right, wrong in cases]
            number[row] += 1
        rates = sums / number
        first, last = rates.mean(axis=0).tolist()
        return OrderSensitivity(first, last, rates)


def _unit(vectors: Float[Tensor, "N E"], name: str, least: int) -> Float[Tensor, "N E"]:
    held = torch.as_tensor(vectors).detach().cpu().double()
    if held.ndim != 2 or len(held) < least:
        raise UsageError(f"{name} must be (N, E), N at least {least}; got {tuple(held.shape)}")
    length = held.norm(dim=1, keepdim=True)
    if not bool((length.isfinite() & (length > 0)).all()):
        raise UsageError(f"{name}: an embedding is zero or not finite")
    return held / length


def _contents(contents: Int[np.ndarray, "N n"], shape: tuple[int, ...]) -> Int[np.ndarray, "N n"]:
    held = np.asarray(contents)
    if held.ndim != 2 or len(held) != shape[0] or not held.shape[1] or held.dtype.kind not in "iu":
        raise UsageError(f"contents must be whole numbers (N, n), N = {shape[0]}; got {held.dtype} {held.shape}")
    if not ((held >= 0) & (held < shape[1])).all():
        raise UsageError(f"contents must be classes from 0 to {shape[1] - 1}")
    ordered = np.sort(held, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise UsageError("a scene has an object twice: the slot that dominates is not defined")
    return held.astype(np.int64)
