"""Captions that say nearly what a picture shows: an object too many, or one too few (p181)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from binderclip.data.synthetic_scenes.captions import listed
from binderclip.errors import UsageError

__all__ = ["ABSENT_LISTS", "PADDING", "HallucinatedCaptions", "ObjectStatistics", "hallucinated_captions"]

PADDING = "###"
ABSENT_LISTS = ("adversarial", "popular", "random")
EACH = 3
_DETERMINER = r"(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|some|many)"


@dataclass(frozen=True)
class HallucinatedCaptions:
    """The 27 captions that a picture's own one is compared with.

    Attributes:
        captions: texts; `PADDING` where one could not be made.
        valid: False for padding.
        kinds: the list that the added objects come from ("adversarial", "popular", "random"), or "deletion".
        changed: how many objects were added or taken away, 1 to 3.
    """

    captions: list[str]
    valid: list[bool]
    kinds: list[str]
    changed: list[int]


@dataclass
class ObjectStatistics:
    """How often objects occur, and with which others: what absent objects are drawn by.

    Args:
        scenes: the objects of each picture of a training set.
        same: object -> words for the same thing, none of which counts as absent where the object is present.
    """

    scenes: Sequence[Sequence[str]]
    same: Mapping[str, Iterable[str]] = field(default_factory=dict)
    counts: Counter[str] = field(init=False)
    together: dict[str, Counter[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counter(name for names in self.scenes for name in set(names))
        self.together = {name: Counter() for name in self.counts}
        for names in self.scenes:
            for name in set(names):
                self.together[name].update(set(names) - {name})

    def absent(self, present: Sequence[str], rng: np.random.Generator, each: int = EACH) -> dict[str, list[str]]:
        """Objects that a picture does not show, no object twice in a list.

        Args:
            present: what it shows.
            rng: draws the random list, and the order of equals.
            each: objects a list.

        Returns:
            `adversarial`: those that occur most often together with the present ones; `popular`: the most frequent;
            `random`: any.

        Raises:
            UsageError: fewer absent objects than `each`.
        """
        shown = set(present) | {word for name in present for word in self.same.get(name, ())}
        left = [name for name in sorted(self.counts) if name not in shown]
        if len(left) < each:
            raise UsageError(f"{len(left)} objects are absent of {len(self.counts)} known ones: at least {each} needed")
        mixed = [left[place] for place in rng.permutation(len(left))]

        def beside(name: str) -> int:
            return sum(self.together.get(shown_one, Counter())[name] for shown_one in set(present))

        return {
            "adversarial": sorted(mixed, key=beside, reverse=True)[:each],
            "popular": sorted(mixed, key=self.counts.__getitem__, reverse=True)[:each],
            "random": [left[place] for place in rng.permutation(len(left))[:each]],
        }


def hallucinated_captions(
    caption: str, present: Sequence[str], absent: Mapping[str, Sequence[str]]
) -> HallucinatedCaptions:
    """27 captions with objects added (3 x 7) or taken away (6).

    Of each list of three absent objects every single one, every pair and all three are added: "a cat and a dog" becomes
    "a cat, a dog and a tree". Of up to three present objects, singles and pairs are taken out of the caption with their
    articles; where the caption would be empty, or does not name them, the place is padded. The paper lets a large
    language model rewrite captions, which these templates stand in for.

    Args:
        caption: the picture's own.
        present: objects in the picture, as the caption names them.
        absent: three objects for each of `ABSENT_LISTS` (`ObjectStatistics.absent`).

    Raises:
        UsageError: another list, not three objects in one, or one that is present.

    Paper: Investigating and Mitigating Object Hallucinations in Pretrained Vision-Language (CLIP) Models, arXiv
    2410.03176.
    """
    if set(absent) != set(ABSENT_LISTS) or any(len(set(names)) != EACH for names in absent.values()):
        raise UsageError(f"absent must have {EACH} different objects for each of {', '.join(ABSENT_LISTS)}")
    if shown := sorted({name for names in absent.values() for name in names} & set(present)):
        raise UsageError(f"{shown[0]!r} is in the picture: it cannot be absent")
    captions_of: list[tuple[str, str, int]] = []
    for kind in ABSENT_LISTS:
        captions_of += [(with_objects(caption, added), kind, len(added)) for added in _subsets(absent[kind], EACH)]
    taken = [(without_objects(caption, gone), "deletion", len(gone)) for gone in _subsets(list(present)[:EACH], 2)]
    captions_of += taken + [("", "deletion", 0)] * (2 * EACH - len(taken))
    valid = [bool(text) for text, _, _ in captions_of]
    captions = [text or PADDING for text, _, _ in captions_of]
    return HallucinatedCaptions(
        captions, valid, [kind for _, kind, _ in captions_of], [count for _, _, count in captions_of]
    )


def _subsets(names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    return [part for size in range(1, most + 1) for part in combinations(names, size)]


def with_objects(caption: str, names: Sequence[str]) -> str:
    """The caption with objects at its end, in its list where it ends in one."""
    plain = caption.rstrip(" .")
    head, joint, last = plain.rpartition(" and ")
    more = listed(list(names))
    if joint and "," not in last:
        return f"{head}, {last} and {more}" if len(names) == 1 else f"{head}, {last}, {more}"
    return f"{plain} and {more}" if len(names) == 1 else f"{plain}, {more}"


def without_objects(caption: str, names: Sequence[str]) -> str:
    """The caption without some of its noun phrases; empty where nothing is left or one is not named."""
    parts = re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", caption.rstrip(" ."))
    for name in names:
        named = re.compile(rf"^{_DETERMINER}?\s*(?:[\w-]+\s+){{0,3}}?{re.escape(name)}(?:e?s)?$", re.IGNORECASE)
        kept = [part for part in parts if not named.match(part)]
        if len(kept) == len(parts):
            return ""
        parts = kept
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
