"""Where a photograph shows people: words for them, from networks that find faces and whose pixels are a person's.

A classifier of ImageNet knows people by what they wear, and a linear classifier of places by skin; where a face is
found, `models.people` says more. Where none is (people from behind, or far off), those two say what they said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.models.people.finder import Face, crop_around, load_people

__all__ = ["add_people", "seen_people"]

MOST_ODDS = 6.0
"""Log odds beyond which a place is surely a person's, or surely not."""
APART = 2.0
"""By how much lower the map of a word is at people who are another's."""
PERSON_AROUND = (2.0, 1.2, 3.0)
"""Of a face's height: a crop of its person, to either side of its middle, above and below. Of 13 photographs of one
person each ("learn", "choose" and newcomers'), such crops told men from women on 11, the face alone on 10."""
AT_FACES = 0.5
"""What a face adds at its middle to a map that points: of 14 outlines of people of the split "choose" the maximum lies
on 13 so, on 11 without; masks have an IoU of .540 so, and .553 without."""
STRENGTH = 2.0
"""Of the map, in standard deviations: as large as the sum of evidence and region, in whose place it comes."""


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
    image: Float[Tensor, "1 3 H W"],
    similar: Callable[[Float[Tensor, "1 3 _ _"]], Float[Tensor, "Q"]] | None = None,
    *,
    pointing: bool = False,
) -> None:
    """Write into maps where people are, for each word for them.

    Words that compete share the map, and each person, whom the nearest face stands for, goes as a whole to the word
    that is most like a crop of that person: parts of one person, hair and a jacket, speak for different words.

    Args:
        maps: evidence of all words; those of `places` are replaced.
        places: of the words for people.
        faces, odds: of `seen_people`.
        image: in whose pixels the faces are.
        similar: how alike a crop in [0, 1] and every word are; None lets words share all people.
        pointing: whether maps are higher at faces: a person's place is as sure as any other, so that the maximum of a
            map would lie anywhere on one. A cut does not gain by it.
    """
    grid = (maps.shape[-2], maps.shape[-1])
    small = F.interpolate(odds[None, None], size=grid, mode="bilinear", antialias=True, align_corners=False)[0, 0]
    spread = small.std(correction=0).clamp(min=1e-4)
    height, width = image.shape[-2:]
    distance = _distances(faces, grid, (height, width)).to(maps.device)  # (number of faces, h, w)
    maps[list(places)] = (STRENGTH * (small - small.mean()) / spread).to(maps)
    if pointing:
        maps[list(places)] += AT_FACES * (-distance.square()).exp().amax(0).to(maps)
    if similar is None or len(places) == 1:
        return
    nearest = distance.argmin(0)
    for number, face in enumerate(faces):
        top, bottom, left, right = crop_around(face, height, width, PERSON_AROUND)
        if top >= bottom or left >= right:
            continue  # a face at the rim, of which the picture has nothing
        alike = similar(image[:, :, top:bottom, left:right])[list(places)]
        for place in (place for order, place in enumerate(places) if order != int(alike.argmax())):
            maps[place] -= APART * (nearest == number)


def _distances(faces: Sequence[Face], grid: tuple[int, int], size: tuple[int, int]) -> Float[Tensor, "n h w"]:
    """Distance of each place from the middle of each face, in widths of that face: of a large one more is near."""
    rows = (torch.arange(grid[0]) + 0.5) * size[0] / grid[0]
    columns = (torch.arange(grid[1]) + 0.5) * size[1] / grid[1]
    distances = []
    for face in faces:
        x0, y0, x1, y1 = face.box
        across, down = columns - (x0 + x1) / 2, rows - (y0 + y1) / 2
        distances.append((across[None].square() + down[:, None].square()).sqrt() / max(x1 - x0, 1.0))
    return torch.stack(distances)
