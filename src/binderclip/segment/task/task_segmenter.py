"""One sentence for a whole folder: words, heatmap, prompts, masks and a choice, in rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.maps import unit_range
from binderclip.segment.promptable import PromptableSegmenter
from binderclip.segment.task.candidates import CandidateMasks, Candidates, FromPoints, Look, Rectangle, grown_box
from binderclip.segment.task.choosing import BestScore, Chooser, ClosestToMean
from binderclip.segment.task.localise import Localiser, consensus_heatmap
from binderclip.segment.task.words import Hypothesis, WordProposer
from binderclip.settings import check_choice

__all__ = ["Loop", "TaskGenericSegmenter", "TaskMask", "TaskRound"]


@dataclass(frozen=True)
class Loop:
    """How one round leads to the next.

    Args:
        rounds: at most.
        reweight: the localiser's picture is weighted by the "heatmap" (GenSAM: the original again and again) or by the
            "mask" (INT: what it was before), or not at all ("none").
        share: of the weighted picture in the next one.
        box_grow: share of its size by which the box of the mask grows before it is a prompt; None for no box.
        tolerance: rounds end when the mean change of the map and the change of that are below it; None for never.

    Raises:
        UsageError: a number out of its range, or an unknown way.
    """

    rounds: int = 6
    reweight: Literal["heatmap", "mask", "none"] = "heatmap"
    share: float = 0.3
    box_grow: float | None = 0.1
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_number("rounds", self.rounds, least=1)
        check_number("share", self.share, least=0, most=1)
        check_choice("reweight", self.reweight, ("heatmap", "mask", "none"))

    def next_image(self, image: Image.Image, seen: Image.Image, heat: Any, probs: Any) -> Image.Image:
        """The picture that the localiser sees in the next round."""
        weight = {"heatmap": heat, "mask": probs, "none": None}[self.reweight]
        if weight is None:
            return seen
        if weight.shape != (image.height, image.width):
            size = (image.height, image.width)
            weight = torch.nn.functional.interpolate(weight[None, None], size=size, mode="bilinear")[0, 0]
            weight = unit_range(weight)
        first, last = (np.asarray(picture, dtype=np.float32) for picture in (image, seen))
        weighted = (first if self.reweight == "heatmap" else last) * weight.cpu().numpy()[..., None]
        mixed = self.share * weighted + (1 - self.share) * last
        return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class TaskRound:
    """One round.

    Attributes:
        hypotheses: the best first. heat: of the object. probs: the round's map. candidates: that it was made of.
    """

    hypotheses: tuple[Hypothesis, ...]
    heat: Float[Tensor, "h w"] | None = field(repr=False)
    probs: Float[Tensor, "H W"] = field(repr=False)
    candidates: CandidateMasks = field(repr=False)

    @property
    def words(self) -> tuple[str, ...]:
        """For the object: the classes of the candidates where they have some, else those of the hypotheses."""
        foregrounds = (own.fore for own in self.hypotheses if own.fore is not None)
        return tuple(dict.fromkeys(foregrounds if self.candidates.names is None else self.candidates.names))


@dataclass(frozen=True)
class TaskMask:
    """The answer.

    Attributes:
        mask: of the task.
        rounds: all of them. chosen: number of the one that the mask is from.
    """

    mask: Bool[Tensor, "H W"]
    rounds: tuple[TaskRound, ...]
    chosen: int

    @property
    def words(self) -> tuple[str, ...]:
        """For the object, of the chosen round."""
        return self.rounds[self.chosen].words

    @property
    def around(self) -> tuple[str, ...]:
        """For its surroundings."""
        return tuple(dict.fromkeys(own.back for own in self.rounds[self.chosen].hypotheses if own.back is not None))


@dataclass
class TaskGenericSegmenter:
    """Masks what a generic sentence means in each picture; nothing is trained.

    The papers are values of it: `gensam`, `instance_mining` (INT), `region_retrieval` (SLIP), `zip_instances` (Zip).

    Args:
        segmenter: any promptable one; it sees the original picture, once.
        proposer: words of a picture.
        localiser: maps of words; None where candidates need no heatmap.
        candidates: masks from the heatmap.
        chooser: one map out of them.
        selector: number of the round whose mask is the answer.
        loop: from round to round.
        leading: only this many of the best hypotheses give the words; None for all.
        boxes: (picture, word) -> all boxes xyxy where it is, asked for the object's words; for candidates with boxes.
    """

    segmenter: PromptableSegmenter
    proposer: WordProposer
    localiser: Localiser | None = None
    candidates: Candidates = field(default_factory=FromPoints)
    chooser: Chooser = field(default_factory=BestScore)
    selector: Callable[[Tensor], int] = field(default_factory=ClosestToMean)
    loop: Loop = field(default_factory=Loop)
    leading: int | None = None
    boxes: Callable[[Image.Image, str], Sequence[Rectangle]] | None = None

    @torch.no_grad()
    def __call__(self, image: Any, task: str) -> TaskMask:
        """Segment one picture.

        Args:
            image: anything `data.open_image` takes.
            task: such as "the hidden animal".

        Raises:
            UsageError: an empty task.
            DataError: the picture cannot be read.
        """
        from binderclip.data import open_image

        if not task.strip():
            raise UsageError("the task is empty: say what is wanted, such as 'the hidden animal'")
        picture = open_image(image).convert("RGB")
        state = self.segmenter.encode(picture)
        seen, box = picture, None
        hypotheses: Sequence[Hypothesis] = ()
        rounds: list[TaskRound] = []
        for _ in range(self.loop.rounds):
            hypotheses = self.proposer.propose(picture, task, hypotheses, seen)
            used = hypotheses[: self.leading]
            fore = [own.fore for own in used if own.fore is not None]
            back = [own.back for own in used if own.back is not None]
            maps, heat = self._maps(seen, fore, back)
            look = Look(picture, self.segmenter, state, task, tuple(fore), maps, heat, self._boxes(picture, fore), box)
            candidates = self.candidates(look)
            probs = self.chooser(picture, candidates, fore)
            rounds.append(TaskRound(tuple(used), heat, probs, candidates))
            if self._settled(rounds):
                break
            if self.loop.box_grow is not None:
                box = grown_box((probs > 0.5).numpy(), self.loop.box_grow)
            seen = self.loop.next_image(picture, seen, heat, probs)
        chosen = self.selector(torch.stack([own.probs for own in rounds]))
        return TaskMask(rounds[chosen].probs > 0.5, tuple(rounds), chosen)

    def _maps(self, seen: Image.Image, fore: list[str], back: list[str]) -> tuple[Tensor | None, Tensor | None]:
        """The maps of the object's words, and what all words agree on; none of either without a word."""
        if self.localiser is None or not fore:
            return None, None
        maps = self.localiser(seen, [*fore, *back]).cpu()
        return maps[: len(fore)], consensus_heatmap(maps[: len(fore)], maps[len(fore) :])

    def _boxes(self, picture: Image.Image, fore: list[str]) -> list[Rectangle]:
        if self.boxes is None:
            return []
        return [box for word in dict.fromkeys(fore) for box in self.boxes(picture, word)]

    def _settled(self, rounds: Sequence[TaskRound]) -> bool:
        if self.loop.tolerance is None or len(rounds) < 3:
            return False
        a, b, c = (own.probs for own in rounds[-3:])
        last, before = float((c - b).abs().mean()), float((b - a).abs().mean())
        return last < self.loop.tolerance and abs(last - before) < self.loop.tolerance
