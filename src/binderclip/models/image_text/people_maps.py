"""Where a photograph shows people: words for them, from networks that find faces and whose pixels are a person's.

A classifier of ImageNet knows people by what they wear, and a linear classifier of places by skin; where a face is
found, `models.people` says more. Where none is (people from behind, or far off), those two say what they said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.models.image_text.regions import RegionWord
from binderclip.models.people.finder import Face, load_people

__all__ = ["PERSON", "add_people", "people_words", "seen_people"]

PERSON = "person"
"""The region whose words are people's."""
MOST_ODDS = 6.0
"""Log odds beyond which a place is surely a person's, or surely not."""
STRENGTH = 2.0
"""Of the map, in standard deviations: as large as the sum of evidence and region, in whose place it comes."""


def people_words(names: Sequence[str], words: Sequence[RegionWord | None]) -> list[int]:
    """Places of the words that mean people.

    Args:
        names: of the regions.
        words: of `word_maps.region_words`.
    """
    return [place for place, word in enumerate(words) if word is not None and names[word.region] == PERSON]


def seen_people(image: Float[Tensor, "1 3 H W"]) -> tuple[list[Face], Float[Tensor, "h w"] | None]:
    """The faces of a picture, and log odds that places are a person's; None where there is no face.

    Args:
        image: in [0, 1], any size.
    """
    finder = load_people().to(image.device)
    faces = finder.faces(image[0])
    if not faces:
        return [], None
    return faces, torch.logit(finder.people(image[0], faces), eps=1e-6).clamp(-MOST_ODDS, MOST_ODDS)


def add_people(
    maps: Float[Tensor, "Q h w"],
    places: Sequence[int],
    faces: Sequence[Face],
    odds: Float[Tensor, "_ _"],
    size: tuple[int, int],
) -> None:
    """Write into maps where people are, for each word for them.

    Words that compete share the map, and each person, whom the nearest face stands for, goes as a whole to the word
    that the evidence there speaks for.

    Args:
        maps: evidence of all words; those of `places` are replaced.
        places: of the words for people.
        faces, odds: of `seen_people`.
        size: height and width of the picture, in whose pixels the faces are.
    """
    grid = (maps.shape[-2], maps.shape[-1])
    small = F.interpolate(odds[None, None], size=grid, mode="bilinear", antialias=True, align_corners=False)[0, 0]
    spread = small.std(correction=0).clamp(min=1e-4)
    drawn = (STRENGTH * (small - small.mean()) / spread).to(maps)
    if len(places) == 1:
        maps[places[0]] = drawn
        return
    nearest, inside = _nearest(faces, grid, size).to(maps.device), small.sigmoid().to(maps)
    evidence = torch.zeros(len(places), *grid, device=maps.device, dtype=maps.dtype)
    for number in range(len(faces)):
        own = inside * (nearest == number)
        mean = (maps[list(places)] * own).sum((1, 2)) / own.sum().clamp(min=1e-6)  # (number of words,)
        evidence += mean[:, None, None] * (nearest == number)
    maps[list(places)] = drawn + evidence - evidence.mean(0)


def _nearest(faces: Sequence[Face], grid: tuple[int, int], size: tuple[int, int]) -> Int[Tensor, "h w"]:
    """The number of the face nearest to each place, in widths of that face: of a large one more is near."""
    rows = (torch.arange(grid[0]) + 0.5) * size[0] / grid[0]
    columns = (torch.arange(grid[1]) + 0.5) * size[1] / grid[1]
    distances = []
    for face in faces:
        x0, y0, x1, y1 = face.box
        across, down = columns - (x0 + x1) / 2, rows - (y0 + y1) / 2
        distances.append((across[None].square() + down[:, None].square()).sqrt() / max(x1 - x0, 1.0))
    return torch.stack(distances).argmin(0)
