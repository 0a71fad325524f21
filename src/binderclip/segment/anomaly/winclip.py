"""WinCLIP and WinCLIP+: a damaged place found by words, and by the memory of a few sound pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number
from binderclip.segment.anomaly.memory import NormalMemory
from binderclip.segment.anomaly.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, state_vectors
from binderclip.segment.anomaly.result import Anomalies, as_anomalies
from binderclip.segment.anomaly.windows import WindowLevels, encode_levels, harmonic_mean, join_levels, spread_harmonic


class WinCLIP:
    """Anomalies of a picture by an image-text model alone; after `fit` on a few normal pictures WinCLIP+.

    Words for a sound and for a damaged object give two vectors. The picture, and every small window of its patches by
    itself, get a probability of damage from them, and each patch the harmonic mean of the windows that cover it, over
    window sizes. With normal pictures there is also how far windows and patches are from the nearest normal one.

    Args:
        model: an `ImageTextModel` whose image tower opens.
        name: what the object is, for the words.
        scales: sides of the windows in patches.
        temperature: of the softmax over the two poles, much softer than the model's own: with that, harmonic means
            saturate.
        size: side in pixels at which the model sees pictures (squashed to a square), a multiple of its patch; None for
            the model's own.
        normal: phrases for a sound object.
        anomalous: phrases for a damaged one.
        templates: sentences around the phrases.
        patches: whether WinCLIP+ also compares single patch tokens.
        words: False leaves the words out of scores and maps (not the paper's): for models whose words do not tell
            damage, and only with normal pictures.

    Raises:
        UsageError: no such states, a window below 1 patch or named twice, a temperature or size that cannot be.
        NotSupported: the model's image tower cannot be opened.

    Examples:
        >>> import binderclip, torch
        >>> detector = WinCLIP(binderclip.load("small"), "textile")
        >>> found = detector.fit(torch.rand(2, 3, 128, 128))(torch.rand(3, 3, 128, 128))
        >>> tuple(found.scores.shape), tuple(found.maps.shape)
        ((3,), (3, 8, 8))

    Paper: WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation (arXiv 2303.14814).
    """

    def __init__(
        self,
        model: Any,
        name: str = "object",
        *,
        scales: Sequence[int] = (2, 3),
        temperature: float = 0.07,
        size: int | None = None,
        normal: Sequence[str] = NORMAL_STATES,
        anomalous: Sequence[str] = ANOMALOUS_STATES,
        templates: Sequence[str] = TEMPLATES,
        patches: bool = True,
        words: bool = True,
    ) -> None:
        refuse_bare_module(model, "WinCLIP")
        scales = tuple(scales)
        if len(set(scales)) < len(scales) or any(not isinstance(k, int) or k < 1 for k in scales):
            raise UsageError(f"scales must be different numbers of patches, at least 1, not {scales}")
        check_number("temperature", temperature, above=0)
        patch = model.image_tower.patch
        if size is not None and (size < patch or size % patch):
            raise UsageError(f"size {size} must be a multiple of the model's patch, {patch} pixels")
        self.model, self.name, self.scales, self.patches = model, name, scales, patches
        self.temperature, self.size, self.words = temperature, size, words
        self.text = state_vectors(model, name, normal=normal, anomalous=anomalous, templates=templates)
        self.memory: dict[int | str, NormalMemory] = {}

    def __repr__(self) -> str:
        shots = f", {self.shots} normal pictures" if self.shots else ""
        return f"WinCLIP({getattr(self.model, 'name', self.model)!r}, {self.name!r}, scales={self.scales}{shots})"

    @property
    def shots(self) -> int:
        """Number of normal pictures it was fitted on; 0 without words only."""
        return len(next(iter(self.memory.values()))) if self.memory else 0

    def encode(self, images: Any, *, batch_size: int = 16) -> WindowLevels:
        """Embeddings of pictures at every level, once for any number of detectors with these scales.

        Args:
            images: one or many, anything the model takes.
            batch_size: pictures that go through the model at once.

        Raises:
            UsageError: no picture.
            DataError: a picture that cannot be read.
        """
        from binderclip.models.image_text.preprocess import as_list, float_batch

        # A crop would hide a damaged border.
        prepared = replace(self.model.preprocess.at(self.size), resize_mode="squash")
        batch = float_batch(images)
        items: Any = as_list(images) if batch is None else batch
        if not len(items):
            raise UsageError("images is empty: give at least one")
        training = self.model.training
        self.model.eval()
        try:
            parts = [
                encode_levels(self.model, prepared(items[first : first + batch_size]), self.scales)
                for first in range(0, len(items), batch_size)
            ]
        finally:
            self.model.train(training)
        return join_levels(parts)

    def fit(self, images: Any, *, batch_size: int = 16) -> WinCLIP:
        """Remember normal pictures (instead of those before); from then on this is WinCLIP+.

        Args:
            images: a few normal pictures, or their `WindowLevels`.
            batch_size: pictures that go through the model at once.

        Raises:
            UsageError: no picture, or a detector that compares nothing: without `scales` and `patches`.
            DataError: a picture that cannot be read.
        """
        if not self.scales and not self.patches:
            raise UsageError("nothing to remember: scales is empty and patches is False")
        levels = images if isinstance(images, WindowLevels) else self.encode(images, batch_size=batch_size)
        self.memory = {scale: NormalMemory(levels.windows[scale]) for scale in self.scales}
        if self.patches:
            self.memory["patches"] = NormalMemory(levels.patches)
        return self

    def forget(self) -> WinCLIP:
        """Back to words alone."""
        self.memory = {}
        return self

    def __call__(self, images: Any, *, batch_size: int = 16) -> Anomalies:
        """Score pictures.

        Args:
            images: one or many, anything the model takes, or their `WindowLevels`.
            batch_size: pictures that go through the model at once.

        Raises:
            UsageError: no picture.
            DataError: a picture that cannot be read.
        """
        levels = images if isinstance(images, WindowLevels) else self.encode(images, batch_size=batch_size)
        return self.score(levels)

    def damage(self, embeddings: Float[Tensor, "*B E"]) -> Float[Tensor, "*B"]:
        """Probability of the anomalous pole, in (0, 1)."""
        cosines = F.normalize(embeddings.float(), dim=-1) @ self.text.T
        return (cosines / self.temperature).softmax(dim=-1)[..., 1]

    def text_map(self, levels: WindowLevels) -> Float[Tensor, "B h w"]:
        """The zero-shot map: harmonic mean over the whole picture's score and the map of each window size."""
        maps = [self.damage(levels.image)[:, None, None].expand(-1, *levels.grid)]
        maps += [spread_harmonic(self.damage(levels.windows[k]), levels.grid, k) for k in self.scales]
        return harmonic_mean(maps)

    def association_map(
        self, levels: WindowLevels, *, without: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B h w"]:
        """The few-shot map: arithmetic mean of the distances to the normal pictures at every level.

        Args:
            levels: of the pictures.
            without: for each picture the normal one that does not count (see `NormalMemory.distances`).

        Raises:
            UsageError: not fitted, or fitted on pictures of another grid's windows.
        """
        if not self.memory:
            raise UsageError("there is no normal picture to compare with: call fit(images) first")
        maps = []
        for level, memory in self.memory.items():
            if isinstance(level, int):
                distances = memory.distances(levels.windows[level], without=without)
                maps.append(spread_harmonic(distances, levels.grid, level))
            else:
                maps.append(memory.distances(levels.patches, without=without).unflatten(1, levels.grid))
        return torch.stack(maps).mean(dim=0)

    @torch.no_grad()
    def score(self, levels: WindowLevels, *, without: Int[Tensor, "B"] | None = None) -> Anomalies:
        """Scores and maps from embeddings that are there already.

        Args:
            levels: of the pictures.
            without: see `association_map`; scores the normal pictures themselves, each without its own memory.

        Raises:
            UsageError: neither words nor normal pictures.
        """
        if not self.words:
            few = self.association_map(levels, without=without)
            return as_anomalies(few.amax(dim=(1, 2)), few)
        image, maps = self.damage(levels.image), self.text_map(levels)
        if self.memory:
            few = self.association_map(levels, without=without)
            maps, image = (maps + few) / 2, (image + few.amax(dim=(1, 2))) / 2
        return as_anomalies(image, maps)
