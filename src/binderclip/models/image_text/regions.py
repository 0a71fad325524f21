"""Words for what has no outline of its own (sky, grass, water): a linear classifier of a picture's places.

A classifier of things knows few of them, and whole pictures teach it badly where they are. This one was taught by
regions that were outlined by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.models.text.word_forms import plain_forms

__all__ = ["RegionClassifier", "RegionWord"]

MOST_ODDS = 8.0
"""Log odds beyond which a place is surely of a region or surely not."""
LARGEST = 0.05
"""Of a picture's places, those that a word is likeliest at, whose mean probability says whether it is shown."""
PRESENCE = (0.95, -0.03)
"""Slope and offset of a logistic function of the log odds of that mean: a regression on 305 photographs, each seen by a
classifier that had not learned from it, both sides weighing alike. It was fitted before sand and snow were left out of
the words; without them, and in other folds, `train.bundled.regions.region_scores` gives (1.06, -0.32)."""
KIND_PRESENCE = {"person": (0.98, 0.68, -7.51)}
"""Region -> slopes of `word_maps.presence_score` and of `region_score`, and offset, of a logistic function for words of
a kind of it; those of other regions go by the first score alone.

The classifier knows people by what they wear. Of 53 such classes any photograph shows a little and few show much, so
that scores of people in portraits reached no further than the threshold of all words. It is a regression of the words
`train.bundled.regions.PEOPLE` on 305 photographs and 8 more with people, of which the 12 that people cover a hundredth
of count as shown; the region was told by classifiers that had not learned from the photograph."""


@dataclass(frozen=True)
class RegionWord:
    """What a word has to do with a region.

    Attributes:
        region: its index.
        whole: whether the word means all of it, as "lawn" does of grass; a "castle" is a building among others, and a
            "woman" a person.
        unnamed: whether it is a kind that no concept is called, of a region of which the concepts know few kinds: they
            say nothing of where a "tulip" is, as they would of a castle.
    """

    region: int
    whole: bool
    unnamed: bool = False


class RegionClassifier(nn.Module):
    """Probabilities of regions at each place, by a softmax over linear functions of what towers see there.

    Args:
        names: of the R regions; the first is everything else.
        weight: (R, D + C + 2) on the features of the concepts' last map, those of the patches, and the height h in the
            picture and its square, 0 at the top and 1 at the bottom.
        bias: (R,)
        words: in small letters -> (region, whether it is all of the region).

    Raises:
        UsageError: counts that do not fit each other, or a word of a region that there is not.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        names: Sequence[str],
        weight: Float[Tensor, "R F"],
        bias: Float[Tensor, "R"],
        words: Mapping[str, tuple[int, bool]],
    ) -> None:
        super().__init__()
        if not len(names) == len(weight) == len(bias):
            raise UsageError(f"{len(names)} regions, {len(weight)} weights and {len(bias)} biases do not fit")
        self.names = list(names)
        self.words = {word: RegionWord(int(region), bool(whole)) for word, (region, whole) in words.items()}
        if any(not 0 < word.region < len(names) for word in self.words.values()):
            raise UsageError(f"words name regions beyond the {len(names)}")
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def of(self, word: str) -> RegionWord | None:
        """The region that a word names or is a kind of; an article and plurals do not matter."""
        return next((self.words[form] for form in plain_forms(word) if form in self.words), None)

    def table(self) -> dict[str, tuple[int, bool]]:
        """The words, as they are given."""
        return {name: (word.region, word.whole) for name, word in self.words.items()}

    def log_odds(self, features: Float[Tensor, "D _ _"], patches: Float[Tensor, "C h w"]) -> Float[Tensor, "R h w"]:
        """log p / (1 - p) of each region at each patch, at most `MOST_ODDS` to either side.

        Args:
            features: of the concepts' last map, at the middle side.
            patches: unit features of a self-supervised tower.
        """
        # In half precision, too, the inputs are float32: they hold those of another tower.
        logits = region_inputs(features, patches) @ self.weight.float().T + self.bias.float()  # (n, R)
        probability = logits.softmax(-1)
        odds = torch.logit(probability, eps=1e-6).clamp(-MOST_ODDS, MOST_ODDS)
        return odds.T.unflatten(1, (patches.shape[-2], patches.shape[-1]))


def region_inputs(features: Float[Tensor, "D _ _"], patches: Float[Tensor, "C h w"]) -> Float[Tensor, "n F"]:
    """What is known of each patch: the concepts' features there, its own, its height in the picture and the square."""
    height, width = patches.shape[-2:]
    # Bilinear, as the finer grid shows no more than the coarser one.
    seen = functional.interpolate(features.float()[None], size=(height, width), mode="bilinear", align_corners=False)
    h = torch.linspace(0, 1, height, device=patches.device)[:, None].expand(height, width)
    return torch.cat([seen[0], patches.float(), h[None], h[None].square()]).flatten(1).T


def region_score(log_odds: Float[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Log odds of the mean probability of the `LARGEST` part of the places, at least one."""
    probability = log_odds.flatten().sigmoid()
    count = max(1, round(LARGEST * len(probability)))
    return torch.logit(probability.topk(count).values.mean(), eps=1e-6)


def region_presence(log_odds: Float[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Probability that a picture shows a region, if half of the pictures do."""
    return (PRESENCE[0] * region_score(log_odds) + PRESENCE[1]).sigmoid()


def kind_presence(region: str, score: Float[Tensor, ""], log_odds: Float[Tensor, "h w"]) -> Float[Tensor, ""] | None:
    """Probability that a picture shows what is a kind of a region; None for a region that says nothing of its kinds.

    Args:
        region: its name, of `KIND_PRESENCE`.
        score: `word_maps.presence_score` of the word.
        log_odds: of the region.
    """
    if region not in KIND_PRESENCE:
        return None
    slope, region_slope, offset = KIND_PRESENCE[region]
    return (slope * score + region_slope * region_score(log_odds) + offset).sigmoid()
