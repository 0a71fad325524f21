"""Maps that stand between a tower and its similarity: fitted once, per modality and role."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.settings import check_choice
from binderclip.similarity.arrays import Rows
from binderclip.similarity.embeddings import EmbeddingSet, same_width

__all__ = ["EmbeddingTransform", "GapRemoval", "MeanShift", "Whitening", "embedding_log_likelihood"]

Key = tuple[str, str]
FLAT = 1e-9
"""Share of the largest variance below which a direction has none."""


class EmbeddingTransform(ABC):
    """A map of embeddings, fitted on sets of them: one for each modality and role.

    `transform(x, "image")` maps raw embeddings; `inverse` takes them back where that can be done. What was fitted are
    plain float64 tensors (`state_dict`, `load_state_dict`), which follow an embedding to its device; gradients pass.

    Attributes:
        counts: vectors that each modality and role was fitted on.
        shared_axes: whether what comes out of two modalities may be compared with each other.
        reads_lengths: whether the length of an embedding matters, so that unit vectors cannot stand for raw ones.
    """

    shared_axes = True
    reads_lengths = True

    def __init__(self) -> None:
        self.width = 0
        self.counts: dict[Key, int] = {}
        self._state: dict[Key, dict[str, Tensor]] = {}

    def fit(self, *sets: EmbeddingSet | Rows) -> Any:
        """Learn from representative sets, one for each modality and role; returns itself.

        Rows of features alone are refused: they do not say whose they are.

        Raises:
            UsageError: no set, what says no modality, two of one kind, sets of several widths, or too few vectors.
        """
        parts = [part for part in sets if isinstance(part, EmbeddingSet)]
        if len(parts) < len(sets):
            raise UsageError('a set must say its modality: EmbeddingSet(features, "image"), not features alone')
        keys = [(part.modality, part.role) for part in parts]
        if not parts or len(set(keys)) < len(keys):
            raise UsageError(f"give one set for each modality and role, not {keys}")
        self.width = same_width(*parts)
        self._state = {key: self._learn(part) for key, part in zip(keys, parts, strict=True)}
        self.counts = {key: len(part) for key, part in zip(keys, parts, strict=True)}
        return self

    def settings(self) -> dict[str, Any]:
        """Arguments that make this map again."""
        return {}

    @abstractmethod
    def _learn(self, part: EmbeddingSet) -> dict[str, Tensor]: ...

    @abstractmethod
    def _map(self, x: Tensor, state: dict[str, Tensor]) -> Tensor: ...

    def _back(self, y: Tensor, state: dict[str, Tensor]) -> Tensor:
        raise UsageError(f"{type(self).__name__} cannot be undone: lengths are lost in it")

    def transform(self, x: Float[Tensor, "n d"], modality: str, role: str = "document") -> Float[Tensor, "n k"]:
        """Map raw embeddings of a modality, in their own dtype.

        Raises:
            UsageError: it was not fitted, not on this modality and role, or on another width.
        """
        return self._map(self._rows(x), self._there(x, modality, role)).to(x)

    def inverse(self, y: Float[Tensor, "n k"], modality: str, role: str = "document") -> Float[Tensor, "n d"]:
        """Take mapped embeddings back.

        Raises:
            UsageError: this map cannot be undone.
        """
        return self._back(_double(y), self._there(y, modality, role)).to(y)

    def fitted(self, modality: str, role: str = "document") -> dict[str, Tensor]:
        """What was learnt of a modality and role."""
        if not self._state:
            raise UsageError(f"{type(self).__name__} is not fitted: call fit with embeddings first")
        if (modality, role) not in self._state:
            known = ", ".join(f"{m} {r}" for m, r in self._state)
            raise UsageError(f"{type(self).__name__} was fitted on {known}, not on {modality} {role}")
        return self._state[modality, role]

    def _there(self, x: Tensor, modality: str, role: str) -> dict[str, Tensor]:
        """What was learnt, where `_double` puts an embedding."""
        return {name: value.to(_place(x)) for name, value in self.fitted(modality, role).items()}

    def mixed(
        self, text: Float[Tensor, "n d"], image: Float[Tensor, "n d"], share: float | Float[Tensor, "n"] = 0.5
    ) -> Float[Tensor, "n k"]:
        """Documents of a text and a picture, from raw embeddings: n(s T(t) + (1 - s) T(i)) of unit vectors T.

        Args:
            text, image: raw embeddings of the same documents.
            share: s, of the text; one for all, or each document's own.

        Raises:
            UsageError: a share out of [0, 1].
        """
        sides = [F.normalize(self.transform(part, side), dim=1) for part, side in ((text, "text"), (image, "image"))]
        return mixed_units(sides[0], sides[1], share)

    def _rows(self, x: Tensor) -> Tensor:
        if self._state and (x.ndim != 2 or x.shape[1] != self.width):
            raise UsageError(f"embeddings must be (n, {self.width}), not {tuple(x.shape)}")
        return _double(x)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that was learnt, as tensors."""
        return {f"{m}/{r}/{name}": value for (m, r), part in self._state.items() for name, value in part.items()}

    def load_state_dict(self, state: dict[str, Tensor], counts: Mapping[Key, int] | None = None) -> None:
        """Take over what another of the same kind has learnt.

        Args:
            state: its `state_dict`.
            counts: its `counts`, where they are known; else those of this map, where it was fitted, or 0.
        """
        self._state = {}
        for name, value in state.items():
            modality, role, entry = name.split("/")
            self._state.setdefault((modality, role), {})[entry] = value.double()
        self.width = len(next(iter(self._state.values()))["mean"]) if self._state else 0
        known = self.counts if counts is None else counts
        self.counts = {key: known.get(key, 0) for key in self._state}


class GapRemoval(EmbeddingTransform):
    """Unit vectors less their modality's mean, made unit vectors again: image and text lie on one sphere.

    In a search over pictures, texts and both, plain cosines rank what is of the query's own modality first. A few
    thousand vectors of the same style are enough for the means; those of the corpus that is searched would be a leak.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> removal = GapRemoval().fit(EmbeddingSet(x, "image"))
        >>> removal.transform(torch.tensor([[2.0, 0.0]]), "image")
        tensor([[ 0.7071, -0.7071]])

    Paper: Closing the Modality Gap for Mixed Modality Search (arXiv 2507.19054).
    """

    reads_lengths = False

    def _learn(self, part: EmbeddingSet) -> dict[str, Tensor]:
        return {"mean": part.unit_mean}

    def _map(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        return F.normalize(F.normalize(x, dim=1) - state["mean"], dim=1)

    def mixed(
        self, text: Float[Tensor, "n d"], image: Float[Tensor, "n d"], share: float | Float[Tensor, "n"] = 0.5
    ) -> Float[Tensor, "n d"]:
        """As of every map, but with means taken away before the sum and once brought to unit length:
        n(s t + (1 - s) i - (s mean_t + (1 - s) mean_i)) of unit vectors t and i.
        """
        t, i = (F.normalize(self._rows(part), dim=1) for part in (text, image))
        means = [self._there(text, modality, "document")["mean"] for modality in ("text", "image")]
        return mixed_units(t - means[0], i - means[1], share).to(text)


def mixed_units(
    text: Float[Tensor, "n d"], image: Float[Tensor, "n d"], share: float | Float[Tensor, "n"]
) -> Float[Tensor, "n d"]:
    """n(s t + (1 - s) i) for documents of two sides, s one for all or each document's own.

    Raises:
        UsageError: a share out of [0, 1].
    """
    weight = torch.as_tensor(share, dtype=text.dtype, device=text.device)
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise UsageError(f"share must be in [0, 1], not {share}")
    weight = weight.reshape(-1, 1)  # (n or 1, 1)
    return F.normalize(weight * text + (1 - weight) * image, dim=1)


class MeanShift(EmbeddingTransform):
    """Raw vectors less k times their modality's mean.

    Args:
        k: share of the mean; 1 centres.

    Paper: The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517).
    """

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = k

    def settings(self) -> dict[str, Any]:
        """The share of the mean."""
        return {"k": self.k}

    def _learn(self, part: EmbeddingSet) -> dict[str, Tensor]:
        return {"mean": part.moments.mean}

    def _map(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        return x - self.k * state["mean"]

    def _back(self, y: Tensor, state: dict[str, Tensor]) -> Tensor:
        return y + self.k * state["mean"]


class Whitening(EmbeddingTransform):
    """Raw vectors less their mean, turned to the covariance's axes and scaled to variance 1 on each.

    What comes out is near a standard normal, so that its length says how usual an embedding is (`log_likelihood`).

    Args:
        mode: "pca" leaves each modality on its own axes, largest variance first; "zca" turns back to the features' own,
            so that pictures and texts can be compared with each other.
        redundant: what happens to features that correlate with an earlier one by more than `threshold`, and leave the
            covariance near singular: "drop" them, and directions without variance (the pseudo-inverse); "noise"
            replaces them by 0.1 N(0, 1) while fitting, as the released code does; "ridge" adds `eps` to every variance;
            "keep" nothing.
        threshold: correlation, positive only.
        eps: of the ridge, as a share of the mean variance.
        seed: of the noise.
        force: fit also on fewer than twice as many vectors as dimensions, where new vectors come out too long.

    Raises:
        UsageError: an unknown choice or a number out of range.

    Paper: Whitened CLIP as a Likelihood Surrogate of Images and Captions (arXiv 2505.06934).
    """

    def __init__(
        self,
        *,
        mode: Literal["pca", "zca"] = "pca",
        redundant: Literal["drop", "noise", "ridge", "keep"] = "drop",
        threshold: float = 0.9,
        eps: float = 1e-3,
        seed: int = 0,
        force: bool = False,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, ("pca", "zca"))
        check_choice("redundant", redundant, ("drop", "noise", "ridge", "keep"))
        if not 0 < threshold <= 1 or not eps > 0:
            raise UsageError(f"threshold must be in (0, 1] and eps positive, not {threshold} and {eps}")
        self.redundant, self.threshold, self.eps, self.seed, self.force = redundant, threshold, eps, seed, force
        self.mode, self.shared_axes = mode, mode == "zca"

    def settings(self) -> dict[str, Any]:
        """All of them."""
        return {name: getattr(self, name) for name in ("mode", "redundant", "threshold", "eps", "seed", "force")}

    def _learn(self, part: EmbeddingSet) -> dict[str, Tensor]:
        count, width = part.features.shape
        if count < 2 * width and not self.force:
            raise UsageError(
                f"{count} {part.modality} embeddings are too few for a covariance of {width} dimensions: give twice as "
                "many, or force=True"
            )
        mean = part.moments.mean
        centred = part.features - mean
        doubles = redundant_features(centred, self.threshold)
        kept = torch.ones(width, dtype=torch.bool)
        if self.redundant == "drop":
            kept = ~doubles
            centred = centred[:, kept]
        elif self.redundant == "noise" and bool(doubles.any()):
            generator = torch.Generator().manual_seed(self.seed)
            noise = 0.1 * torch.randn(count, int(doubles.sum()), generator=generator, dtype=torch.float64)
            centred = centred.clone()
            centred[:, doubles] = noise
        covariance = centred.T @ centred / (count - 1)
        if self.redundant == "ridge":
            covariance = covariance + self.eps * covariance.diagonal().mean() * torch.eye(len(covariance))
        values, axes = torch.linalg.eigh(covariance)
        values, axes = values.flip(0), axes.flip(1)
        if self.redundant == "drop":
            # Embeddings of a head that is wider than its tower fill a subspace: what is left is rounding.
            there = values > FLAT * values[0]
            values, axes = values[there], axes[:, there]
        if not float(values[-1]) > 1e-12 * float(values[0]):
            raise UsageError(
                f"the covariance of {part.modality} is singular: directions without variance; take redundant='ridge'"
            )
        forward, backward = axes / values.sqrt(), (axes * values.sqrt()).T  # (k, r), (r, k)
        if self.mode == "zca":
            # Back to all d features, those that were dropped at 0.
            back = torch.zeros(len(axes), width, dtype=torch.float64)
            back[:, kept] = torch.eye(len(axes), dtype=torch.float64)
            forward, backward = forward @ axes.T @ back, back.T @ axes @ backward  # (k, d), (d, k)
        return {
            "mean": mean,
            "kept": kept.double(),
            "forward": forward,
            "backward": backward,
            "variances": values,
        }

    def _map(self, x: Tensor, state: dict[str, Tensor]) -> Tensor:
        centred, kept = x - state["mean"], state["kept"] > 0
        return (centred if len(state["forward"]) == len(kept) else centred[:, kept]) @ state["forward"]

    def _back(self, y: Tensor, state: dict[str, Tensor]) -> Tensor:
        if not bool((state["kept"] > 0).all()):
            raise UsageError("redundant features were dropped and cannot be given back: take redundant='ridge'")
        return y @ state["backward"] + state["mean"]

    def log_likelihood(self, x: Float[Tensor, "n d"], modality: str, role: str = "document") -> Float[Tensor, "n"]:
        """-(k ln 2 pi + ||y||^2) / 2 of the whitened vectors; compared within one modality alone."""
        y = self._map(self._rows(x), self._there(x, modality, role))
        directions = len(self.fitted(modality, role)["variances"])  # fewer than the width where some were dropped
        return embedding_log_likelihood(y) + 0.5 * (y.shape[1] - directions) * math.log(2 * math.pi)

    def condition(self, modality: str, role: str = "document") -> float:
        """Largest over smallest variance of what was fitted."""
        variances = self.fitted(modality, role)["variances"]
        return float(variances[0] / variances[-1])


def _place(x: Tensor) -> torch.device:
    """Where float64 is: x's own device, the CPU for Apple's."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def _double(x: Tensor) -> Tensor:
    return x.to(_place(x)).double()


def embedding_log_likelihood(y: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """Log density of whitened vectors under the standard normal of k dimensions.

    Paper: Whitened CLIP as a Likelihood Surrogate of Images and Captions (arXiv 2505.06934).
    """
    return -0.5 * (y.shape[1] * math.log(2 * math.pi) + y.double().square().sum(1))


def redundant_features(centred: Float[Tensor, "n d"], threshold: float) -> Bool[Tensor, "d"]:
    """Features whose correlation with an earlier one exceeds the threshold, or that do not vary."""
    deviation = centred.std(0)
    flat = deviation <= 1e-12 * deviation.max()
    correlation = (centred.T @ centred) / (len(centred) - 1) / torch.outer(deviation, deviation).clamp(min=1e-300)
    return (torch.triu(correlation, 1) > threshold).any(0) | flat
