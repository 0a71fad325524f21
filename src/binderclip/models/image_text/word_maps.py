"""Where a picture shows what a word means: a classifier's logits at each place, weighed by how near its classes are.

The classifier's places are 32 pixels wide and its maps end where its classes are surest, at a face or a trunk. So they
are spread over patches that look alike to a self-supervised tower, which sees borders of things and no names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.regions import RegionWord, kind_presence, region_presence
from binderclip.models.text.word_forms import plain_forms

if TYPE_CHECKING:
    from binderclip.models.people.finder import Face

__all__ = [
    "SIDES", "ConceptEvidence", "PictureConcepts", "concept_evidence", "people_words", "picture_patches",
    "presence_score", "region_words", "shown_concepts", "spread_maps", "word_maps", "word_presence", "word_weights",
]  # fmt: skip

SIDES = (384, 512, 768)
"""Long sides in pixels at which the classifier sees a picture: of the three each finds things of its own size."""
MIDDLE = 512
"""The side at which regions were learned."""
UNNAMED = 4.0
"""By how much the log weight of what a word does not name is lower, for words that some concept is named by."""
PRESENCE_SIDES = (224, 384, 512)
"""Long sides at which it is asked whether a picture shows a word. The finer ones see small things, and words that are
not there in some of their places; at 224 the classifier was trained. On the words of the split "choose", with a slope
fitted to other parts of it, the area under the curve is .951 for their mean (.935 for 512 alone), and 5.4 instead of
8.0 % of false words pass a gate that keeps 80 % of right ones."""
PRESENCE = (0.658, 40.0, -6.18)
"""Slope, weight of the cosine and offset of `word_presence`: a logistic regression on the words of 305 photographs of
the splits "learn" and "choose" against all others, both sides weighing alike, each without its own picture's scenes."""
USUAL, USUAL_QUANTILE = 0.6, 0.9
"""Of what is usual, how much is taken away, and the cosine that counts. On the words of these photographs .60 to .70
and medians to .95 quantiles were alike; without it the gate that keeps 90 % of words lets 19 % of false ones pass, with
it 8 %."""
PERSON = "person"
"""The region whose words are people's."""
FEW_KINDS = 4
"""Concepts of a region, up to which its kinds are not told apart by them: the classes have a daisy and a lady's
slipper, and a map of "tulip" by these held leaves for tulips. What it has to show without them was written down before:
on the four outlined flowers of the split "report" the mean IoU of "tulip", "rose" and "lily", without the gate, rises
by .1. Measured once: from .643 to .745, that of "flower"."""
PATCHES, PATCHES_SIDE = "small-dino", 288
"""The tower whose patches say what belongs together, and the long side in pixels at which it sees a picture."""


class PictureConcepts:
    """What a classifier and a self-supervised tower see of one picture, each made once, when it is asked for.

    Args:
        concepts: with `feature_map`, `logits` and `regions`.
        image: in [0, 1], any size.
    """

    def __init__(self, concepts: Any, image: Float[Tensor, "1 3 H W"]) -> None:
        self.concepts, self.image = concepts, image
        self._features: dict[int, Tensor] = {}
        self._logits: dict[int, Tensor] = {}

    @torch.no_grad()
    def features(self, side: int) -> Float[Tensor, "D h w"]:
        """The classifier's last map, of the picture at a long side in pixels."""
        if side not in self._features:
            self._features[side] = self.concepts.feature_map(self.image, side)[0]
        return self._features[side]

    @torch.no_grad()
    def logits(self, side: int) -> Float[Tensor, "K h w"]:
        """Logits of the concepts at each place, the mean of 3 x 3: single ones are noisy."""
        if side not in self._logits:
            logits = self.concepts.logits(self.features(side).permute(1, 2, 0)).float().permute(2, 0, 1)  # (K, h, w)
            self._logits[side] = F.avg_pool2d(F.pad(logits[None], [1] * 4, mode="replicate"), 3, stride=1)[0]
        return self._logits[side]

    @cached_property
    def patches(self) -> Float[Tensor, "C h w"]:
        """Unit features of the picture's patches (`picture_patches`)."""
        return picture_patches(self.image)

    @cached_property
    def region_odds(self) -> Float[Tensor, "R h w"]:
        """Log odds of the regions at each patch."""
        return self.concepts.regions.log_odds(self.features(MIDDLE), self.patches)

    @cached_property
    def people(self) -> tuple[list[Face], Tensor | None]:
        """Faces, and where they say that people are (`models.people.maps.seen_people`)."""
        from binderclip.models.people.maps import seen_people  # only where a word means people

        return seen_people(self.image)


def word_weights(
    concepts: Any, texts: Float[Tensor, "Q E"], words: Sequence[str], sharpness: float
) -> Float[Tensor, "Q K"]:
    """Log weights of the concepts for words, at most 0: by meaning where the concepts name a word, else by cosines.

    It is sharpness (s(c) - max s) with the cosine s(c) of concept and text. For a word with `meant` concepts it is 0
    for those, and `UNNAMED` less for all others: a tree frog is near "tree" among texts and shows none.

    Args:
        concepts: with `vectors` (K, E), and `meant`.
        texts: of the words, any length.
        words: as they are written; none to go by the cosines alone.
        sharpness: how near a concept must be, per unit of cosine.
    """
    cosines = F.normalize(texts.float(), dim=-1) @ concepts.vectors.float().T
    weights = sharpness * (cosines - cosines.amax(1, keepdim=True))
    for row, word in zip(weights, words, strict=bool(words)):
        if meant := concepts.meant(word):
            row -= UNNAMED
            row[meant] = 0.0
    return weights


def presence_score(
    concepts: Any,
    maps: Sequence[Float[Tensor, "K _ _"]],
    texts: Float[Tensor, "Q E"],
    weights: Float[Tensor, "Q K"],
) -> Float[Tensor, "Q"]:
    """How much a picture shows of words, less six tenths of what photographs usually show of them.

    What a picture shows is log max sum_c p(c) exp(weight(q, c)) + 40 max cos(q, z), maxima over places, where
    z = sum_c p(c) v(c) is the place of a place among texts; of several sizes it is the mean. What is usual is the same
    of the concepts' `usual` probabilities, and of the cosine that one in ten of `usual_places` exceeds: any picture
    shows a little of a word that 118 classes are kinds of, and of one that is near everything. Scores are normalised so
    in the verification of speakers, against a cohort of others.

    Args:
        concepts: with `vectors` (K, E), `usual` (K,) and `usual_places` (U, E).
        maps: logits of a picture's places, at each size.
        texts: of the words, any length.
        weights: of `word_weights`.
    """
    unit, mixed = F.normalize(texts.float(), dim=-1), weights.exp()
    shown = torch.zeros(len(texts), device=unit.device)  # (Q,)
    for logits in maps:
        probabilities = logits.flatten(1).softmax(0)  # (K, n)
        places = F.normalize(probabilities.T @ concepts.vectors.float(), dim=-1)  # (n, E)
        nearest = (unit @ places.T).amax(1)  # (Q,)
        shown += (mixed @ probabilities).amax(1).clamp(min=1e-9).log() + PRESENCE[1] * nearest
    near = torch.quantile(unit @ concepts.usual_places.float().T, USUAL_QUANTILE, dim=1)  # (Q,)
    usual = (mixed @ concepts.usual.float()).clamp(min=1e-9).log() + PRESENCE[1] * near
    return shown / len(maps) - USUAL * usual


def word_presence(
    concepts: Any,
    maps: Sequence[Float[Tensor, "K _ _"]],
    texts: Float[Tensor, "Q E"],
    weights: Float[Tensor, "Q K"],
) -> Float[Tensor, "Q"]:
    """Probability that a picture shows each word, if as many words are shown as are not.

    A logistic function of `presence_score`, whose arguments it takes, fitted to labelled photographs
    (`train.bundled.presence`).
    """
    return _probability(presence_score(concepts, maps, texts, weights))


def _probability(score: Float[Tensor, "Q"]) -> Float[Tensor, "Q"]:
    return (PRESENCE[0] * score + PRESENCE[2]).sigmoid()


def shown_concepts(logits: Float[Tensor, "K h w"]) -> Float[Tensor, "K"]:
    """Log of the largest probability of each concept at any place."""
    return (logits.flatten(1).softmax(0).amax(1) + 1e-4).log()


def concept_evidence(
    logits: Float[Tensor, "K h w"], weights: Float[Tensor, "Q K"], contrast: float
) -> Float[Tensor, "Q h w"]:
    """log sum_c exp(l(c) + weight(q, c)) - contrast log sum_c exp(l(c)) at each place.

    Args:
        logits: of K concepts.
        weights: log weights of the concepts for each of Q words.
        contrast: of the second term.
    """
    flat = logits.flatten(1)  # (K, n)
    highest = flat.amax(0, keepdim=True)
    total = torch.logsumexp(flat, 0)
    top = weights.amax(1, keepdim=True)
    # A product of matrices instead of Q K n exponentials; both factors are at most 1.
    mixed = ((weights - top).exp() @ (flat - highest).exp()).clamp(min=1e-30).log() + top + highest
    return (mixed - contrast * total).unflatten(1, (logits.shape[-2], logits.shape[-1]))


def word_maps(
    maps: Sequence[Float[Tensor, "K _ _"]], weights: Float[Tensor, "Q K"], contrast: float
) -> Float[Tensor, "Q h w"]:
    """The mean of the standardised evidence at several sizes, on the finest grid; mean 0 over the picture.

    Args:
        maps: logits of the places at each size.
        weights, contrast: of `concept_evidence`.
    """
    grid = max((each.shape[-2:] for each in maps), key=lambda size: size[0] * size[1])
    total = torch.zeros(len(weights), *grid, device=weights.device)
    for logits in maps:
        evidence = concept_evidence(logits, weights, contrast)
        spread = evidence.std((-2, -1), keepdim=True, correction=0).clamp(min=1e-6)
        evidence = (evidence - evidence.mean((-2, -1), keepdim=True)) / spread
        total += F.interpolate(evidence[None], size=grid, mode="bilinear", align_corners=False)[0] / len(maps)
    return total


@torch.no_grad()
def picture_patches(image: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "C h w"]:
    """Unit features of a picture's patches by a self-supervised tower, 36 along the longer side.

    Args:
        image: in [0, 1], any size.
    """
    model = _patch_tower().to(image.device)
    patch, longest = model.image_tower.patch, max(image.shape[-2:])
    height, width = (max(1, round(PATCHES_SIDE * side / longest / patch)) * patch for side in image.shape[-2:])
    seen = F.interpolate(image.float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return model.patch_features(seen.clamp(0, 1), size=(height, width), normalize=True)[0]


@lru_cache(maxsize=1)
def _patch_tower() -> Any:
    from binderclip.models.image_text.vision import load_vision

    return load_vision(PATCHES)


def spread_maps(
    maps: Float[Tensor, "Q _ _"], patches: Float[Tensor, "C h w"], affinity: float
) -> Float[Tensor, "Q h w"]:
    """Maps on the grid of patches, each the mean over all patches weighed by exp(affinity cosine), then standardised.

    Args:
        maps: any grid over the picture; a constant one stays so.
        patches: unit features.
        affinity: how much more like patches count, per unit of cosine.
    """
    unit = patches.flatten(1)  # (C, n)
    weights = (affinity * (unit.T @ unit)).softmax(-1)  # (n, n)
    grid = (patches.shape[-2], patches.shape[-1])
    small = F.interpolate(maps[None], size=grid, mode="bilinear", antialias=True, align_corners=False)[0].flatten(1)
    spread = (small - small.mean(1, keepdim=True)) @ weights.T  # (Q, n)
    spread = spread - spread.mean(1, keepdim=True)
    # What remains of a constant map is rounding, which must not become a map.
    return (spread / spread.std(1, keepdim=True, correction=0).clamp(min=1e-4)).unflatten(1, grid)


@dataclass(frozen=True)
class ConceptEvidence:
    """How a picture's maps of words are made: what `explain` and `segment` share.

    Args:
        sides: long sides in pixels at which the classifier sees the picture.
        sharpness: how near a concept must be, per unit of cosine.
        picture: weight of the concepts that the picture shows.
        contrast: weight of what the place shows of anything.
        affinity: how much more patches that look alike count, per unit of cosine; 0 leaves the maps as they are.

    Raises:
        UsageError: no side, one below 32 or above 4,096 pixels, or a number that is not finite.
    """

    sides: tuple[int, ...] = SIDES
    sharpness: float = 15.0
    picture: float = 1.0
    contrast: float = 0.5
    affinity: float = 10.0

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 32 or max(self.sides) > 4096:
            raise UsageError(f"sides are long sides of 32 to 4096 pixels, not {self.sides}")
        numbers = (self.sharpness, self.picture, self.contrast, self.affinity)
        if not all(abs(each) < 1e6 for each in numbers):
            raise UsageError(f"sharpness, picture, contrast and affinity must be finite, not {numbers}")

    @property
    def middle(self) -> int:
        """The side at which it is asked which concepts a picture shows."""
        return sorted(self.sides)[len(self.sides) // 2]

    def maps(
        self,
        weights: Float[Tensor, "Q K"],
        words: Sequence[RegionWord | None],
        picture: PictureConcepts,
        similar: Callable[[Float[Tensor, "1 3 _ _"]], Float[Tensor, "Q"]] | None = None,
        *,
        pointing: bool = False,
    ) -> Float[Tensor, "Q h w"]:
        """Maps of words, on the grid of the patches, or without `affinity` on the finest one of the classifier.

        Args:
            weights: of `word_weights`.
            words: of `region_words`: a word that means a region is where that is; one that is a kind of it is where
                both are. One for people is where `models.people` sees them, if there is a face.
            picture: where to look.
            similar: how alike a crop and every word are, by which words for people share them out.
            pointing: whether maps of people are higher at their faces, for a maximum that means something.
        """
        logits = [picture.logits(side) for side in self.sides]
        weights = weights + self.picture * shown_concepts(picture.logits(self.middle))
        maps = word_maps(logits, weights, self.contrast)
        if self.affinity:
            maps = spread_maps(maps, picture.patches, self.affinity)
        people = people_words(picture.concepts, words)
        faces, people_odds = picture.people if people else ([], None)
        if people_odds is None:
            people = []  # without a face they are told like kinds of any region
        else:
            from binderclip.models.people.maps import add_people

            add_people(maps, people, faces, people_odds, picture.image, similar, pointing=pointing)
        for place, word in enumerate(words):
            if word is not None and place not in people:
                odds = picture.region_odds[word.region][None]
                if self.affinity:
                    region = spread_maps(odds, picture.patches, self.affinity)[0]
                else:
                    size = (maps.shape[-2], maps.shape[-1])
                    region = F.interpolate(odds[None], size=size, mode="bilinear", align_corners=False)[0, 0]
                    region = (region - region.mean()) / region.std(correction=0).clamp(min=1e-4)
                maps[place] = region if word.whole or word.unnamed else maps[place] + region
        return maps

    def presence(
        self,
        texts: Float[Tensor, "Q E"],
        weights: Float[Tensor, "Q K"],
        words: Sequence[RegionWord | None],
        picture: PictureConcepts,
    ) -> Float[Tensor, "Q"]:
        """Probability that the picture shows each word: `word_presence` at `PRESENCE_SIDES`, or of a region.

        A word for people goes by both, and is there where a face is, with its probability.

        Args:
            texts, weights: as of `word_presence`.
            words, picture: as of `maps`.
        """
        maps = [picture.logits(side) for side in PRESENCE_SIDES]
        score = presence_score(picture.concepts, maps, texts, weights)
        presence = _probability(score)
        for place, word in enumerate(words):
            if word is None:
                continue
            if word.whole:
                presence[place] = region_presence(picture.region_odds[word.region])
            else:
                region = picture.concepts.regions.names[word.region]
                probability = kind_presence(region, score[place], picture.region_odds[word.region])
                presence[place] = presence[place] if probability is None else probability
        people = people_words(picture.concepts, words)
        faces = picture.people[0] if people else []
        if faces:  # the surest first
            presence[people] = presence[people].clamp(min=faces[0].probability)
        return presence


def region_words(concepts: Any, words: Sequence[str]) -> list[RegionWord | None]:
    """What each word has to do with the regions that the concepts know; None for nothing."""
    return [_region_word(concepts, word) for word in words]


def _region_word(concepts: Any, word: str) -> RegionWord | None:
    known = None if concepts.regions is None else concepts.regions.of(word)
    if known is None or known.whole:
        return known
    kinds, own = set(concepts.meant(concepts.regions.names[known.region])), concepts.meant(word)
    called = {concepts.names[index].lower() for index in own}
    if not own or len(kinds) > FEW_KINDS or not kinds.issuperset(own) or not called.isdisjoint(plain_forms(word)):
        return known
    return replace(known, unnamed=True)


def people_words(concepts: Any, words: Sequence[RegionWord | None]) -> list[int]:
    """Places of the words that mean people.

    Args:
        concepts: whose regions these are.
        words: of `region_words`.
    """
    return [place for place, word in enumerate(words) if word and concepts.regions.names[word.region] == PERSON]
