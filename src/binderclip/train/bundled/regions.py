"""How `everyday` learned regions without an outline of their own (sky, grass, water), and which words mean them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.models.image_text.concepts import ConceptBranch
from binderclip.models.image_text.regions import RegionClassifier, region_inputs, region_score
from binderclip.models.image_text.word_maps import MIDDLE, PictureConcepts
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.photograph_masks import PhotographMask
from binderclip.train.bundled.data.synsets import Synset

__all__ = ["PEOPLE", "REGIONS", "fit_regions", "region_cells", "region_scores", "region_vocabulary"]

# fmt: off
REGIONS = (
    "other", "sky", "grass", "tree", "water", "sand", "rock", "mountain", "snow", "road", "building", "flower", "leaf",
    "wood", "person", "starry sky",
)
"""What places are told apart; "other" is everything that is outlined and none of the others."""
WHOLE = {
    "sky": ("sky", "blue sky"), "grass": ("grass", "lawn", "meadow", "field", "pasture", "grassland"),
    "tree": ("tree", "forest", "woods", "woodland", "bush", "shrub", "foliage", "hedge", "jungle"),
    "water": ("water", "sea", "lake", "river", "ocean", "pond", "stream", "bay", "sea water"),
    "rock": ("rock", "stone", "boulder", "cliff", "gravel", "pebble"),
    "mountain": ("mountain", "hill", "mountain range"),
    "road": ("road", "street", "pavement", "highway", "asphalt", "tarmac"), "building": ("building",),
    "flower": ("flower", "blossom"), "starry sky": ("starry sky", "night sky"), "wood": ("wood", "timber", "lumber"),
}
"""Region -> words that mean all of it."""
KINDS = {
    "flower": ("flower",), "tree": ("tree",), "water": ("body of water",), "road": ("road",),
    "building": ("building", "tower", "bridge", "house", "castle"),
}
"""Region -> words of WordNet: what is a kind of their commonest sense is a kind of the region. "sand", "snow"
and "leaf" are told apart from the others, and are too few among the outlines (2, 2 and 7 pictures) to stand for their
words."""
PEOPLE = (
    "person", "people", "human", "man", "woman", "child", "boy", "girl", "adult", "crowd", "gentleman", "guy", "kid",
    "lady", "pedestrian", "teenager",
)
TIMBER = (
    "ash tree", "beech", "birch", "cedar", "cypress", "elm", "fir", "maple", "oak", "palm", "pine", "poplar", "spruce",
    "willow",
)
"""Trees whose commoner meaning is their wood, or a part of the hand; those of fruit are mostly seen as fruit."""
BLOOMS = (
    "azalea", "bluebell", "bouquet", "buttercup", "camellia", "cherry blossom", "clover", "crocus", "daffodil",
    "dandelion", "fuchsia", "geranium", "gladiolus", "heather", "hibiscus", "hyacinth", "hydrangea", "iris", "jasmine",
    "lavender", "lilac", "lily", "lotus", "magnolia", "narcissus", "pansy", "primrose", "rhododendron", "rose",
    "thistle", "tulip", "violet", "water lily", "wisteria",
)
# fmt: on
"""Flowers that WordNet has as shrubs, bulbs and herbs."""
TOLD = {**WHOLE, "person": PEOPLE}
"""Region -> words by which a picture says that it shows it."""
LONGEST = 1024
COVERED = 0.85
"""Of a patch that must lie in an outline for the patch to count."""
AREA_SIDE = 200
"""Pixels of the side of masks by which areas are measured."""
MOST_CELLS = 60
"""Patches of a region of one picture that are learned from: more say the same again."""
PENALTY = 3e-3


@torch.no_grad()
def region_cells(
    branch: ConceptBranch, outlines: Sequence[PhotographMask], things: Sequence[PhotographMask] = (), *, seed: int = 0
) -> tuple[Float[Tensor, "N F"], list[int], list[int]]:
    """What places of outlined regions look like: inputs, the region of each, and the number of its picture.

    Args:
        branch: with its classifier.
        outlines: with photographs that can be opened; their words are `REGIONS`.
        things: outlines of things, which count as "other" but for those of a region's name.
        seed: of the draw of patches.
    """
    inputs, regions, pictures = [], [], []
    generator = torch.Generator().manual_seed(seed)
    groups: dict[tuple[str, str, str], list[tuple[int, PhotographMask]]] = defaultdict(list)
    for outline, given in [(each, True) for each in outlines] + [(each, False) for each in things]:
        region = REGIONS.index(outline.word) if given or outline.word in REGIONS else 0
        groups[_key(outline.photograph)].append((region, outline))
    for number, own in enumerate(groups.values()):
        picture = own[0][1].photograph.open().convert("RGB")
        picture.thumbnail((LONGEST, LONGEST))
        seen = PictureConcepts(branch, to_tensor(picture)[None])
        rows = region_inputs(seen.features(MIDDLE), seen.patches)
        grid = (seen.patches.shape[-2], seen.patches.shape[-1])
        for region in sorted({region for region, _ in own}):
            inside = torch.zeros(grid, dtype=torch.bool)
            for other, outline in own:
                inside |= _covered(outline, grid) if other == region else torch.zeros_like(inside)
            places = inside.flatten().nonzero()[:, 0]
            places = places[torch.randperm(len(places), generator=generator)[:MOST_CELLS]]
            inputs.append(rows[places])
            regions += [region] * len(places)
            pictures += [number] * len(places)
    if not inputs:
        raise UsageError("region_cells: no outlines")
    return torch.cat(inputs), regions, pictures


def _covered(outline: PhotographMask, grid: tuple[int, int], fine: int = 6) -> Bool[Tensor, "h w"]:
    mask = torch.from_numpy(outline.mask(grid[0] * fine, grid[1] * fine)).float()
    return functional.avg_pool2d(mask[None], fine)[0] > COVERED


def fit_regions(
    inputs: Float[Tensor, "N F"],
    regions: Sequence[int],
    pictures: Sequence[int],
    words: Mapping[str, tuple[int, bool]],
) -> RegionClassifier:
    """A multinomial logistic regression on standardised inputs.

    Each region of a picture weighs by its patches, and a region of many pictures by the root of their number.

    Args:
        inputs, regions, pictures: of `region_cells`.
        words: of `region_vocabulary`.
    """
    from sklearn.linear_model import LogisticRegression

    target = np.array(regions)
    weight = np.ones(len(target))
    for region in set(regions):
        weight[target == region] *= (target == region).sum() ** -0.5
    weight /= weight.sum()
    mean, spread = inputs.mean(0), inputs.std(0) + 1e-3
    fit = LogisticRegression(C=0.5 / PENALTY, max_iter=200, tol=1e-5)
    fit.fit(((inputs - mean) / spread).numpy(), target, weight)
    rows = torch.zeros(len(REGIONS), inputs.shape[1])
    offset = torch.full((len(REGIONS),), -30.0)  # a region without outlines is nowhere
    rows[fit.classes_] = torch.from_numpy(fit.coef_).float() / spread
    offset[fit.classes_] = torch.from_numpy(fit.intercept_).float()
    offset -= rows @ mean
    return RegionClassifier(REGIONS, rows, offset, words)


def region_vocabulary(synsets: Mapping[str, Synset], order: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, bool]]:
    """Word -> (region, whether it means all of it), of `WHOLE`, `TIMBER`, `BLOOMS`, `PEOPLE`, and WordNet's of `KINDS`.

    Args:
        synsets, order: of `synsets.noun_synsets` and `synsets.senses`.
    """
    below: dict[str, list[str]] = defaultdict(list)
    for offset, synset in synsets.items():
        for parent in synset.hypernyms:
            below[parent].append(offset)
    words: dict[str, tuple[int, bool]] = {}
    for name, roots in KINDS.items():
        waiting = [order[root][0] for root in roots]
        reached = set(waiting)
        while waiting:
            for child in below[waiting.pop()]:
                if child not in reached:
                    reached.add(child)
                    waiting.append(child)
        for offset in sorted(reached):
            for lemma in synsets[offset].lemmas:
                # Capitals are names, of rivers and in Latin. Of several senses the commonest counts, but a "church" is
                # people first and a building to look at.
                if lemma.islower() and offset in order.get(lemma, ())[: 2 if name == "building" else 1]:
                    words.setdefault(lemma.lower(), (REGIONS.index(name), False))
    words |= {
        word: (REGIONS.index(name), False) for name, own in (("tree", TIMBER), ("flower", BLOOMS)) for word in own
    }
    # Men and women are told apart by no outlines, so that each word has its own evidence beside the region.
    words |= {word: (REGIONS.index("person"), False) for word in PEOPLE}
    return words | {word: (REGIONS.index(name), True) for name, own in WHOLE.items() for word in own}


@torch.no_grad()
def region_scores(
    branch: ConceptBranch,
    photographs: Sequence[LabelledPhotograph],
    outlines: Sequence[PhotographMask],
    things: Sequence[PhotographMask] = (),
    *,
    folds: int = 5,
    seed: int = 0,
    least: float = 0.0,
) -> tuple[Float[np.ndarray, "N W"], Int[np.ndarray, "N W"]]:
    """`region_score` of the regions of `TOLD`, each photograph seen by a classifier that has not learned from it.

    `presence.fit_presence` fits slope and offset of `region_presence` to it, and those of `kind_presence` to it beside
    `presence.presence_scores`.

    Args:
        branch: with its classifier.
        photographs: all of them, also those without outlines.
        outlines, things: as of `region_cells`.
        folds: parts that the photographs are cut into.
        seed: of the parts.
        least: of a picture that the outlines of a region must cover, lest it be too small.

    Returns:
        The scores, and 1 where the region is outlined, 0 where no word of it is said of the photograph, -1 where one is
        and it was too small to be outlined.
    """
    order = np.random.default_rng(seed).permutation(len(photographs))
    part = {_key(photographs[row]): place % folds for place, row in enumerate(order)}
    outlined = {
        (_key(each.photograph), each.word): each.mask(AREA_SIDE, AREA_SIDE).mean() >= least for each in outlines
    }
    scores, shown = np.zeros((len(photographs), len(TOLD))), np.zeros((len(photographs), len(TOLD)), dtype=int)
    for fold in range(folds):
        kept = [[each for each in own if part[_key(each.photograph)] != fold] for own in (outlines, things)]
        regions = fit_regions(*region_cells(branch, *kept), {})
        for number, row in enumerate(photographs):
            if part[_key(row)] != fold:
                continue
            picture = row.open().convert("RGB")
            picture.thumbnail((LONGEST, LONGEST))
            seen = PictureConcepts(branch, to_tensor(picture)[None])
            odds = regions.log_odds(seen.features(MIDDLE), seen.patches)
            labels = {row.label, *row.also, *row.shows}
            for column, (name, words) in enumerate(TOLD.items()):
                scores[number, column] = float(region_score(odds[REGIONS.index(name)]))
                large = outlined.get((_key(row), name))
                named = large is not None or bool(labels.intersection(words))
                shown[number, column] = 1 if large else -int(named)
    return scores, shown


def _key(photograph: LabelledPhotograph) -> tuple[str, str, str]:
    return photograph.package, photograph.file, photograph.member
