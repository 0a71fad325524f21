"""How regions were learned: the vocabulary by hand, the fit on regions that are known, patches by area."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.photograph_masks import PhotographMask, photograph_regions
from binderclip.train.bundled.data.synsets import Synset
from binderclip.train.bundled.regions import (
    BLOOMS,
    MOST_CELLS,
    PEOPLE,
    REGIONS,
    TIMBER,
    TOLD,
    WHOLE,
    fit_regions,
    region_cells,
    region_scores,
    region_vocabulary,
)

PHOTO = LabelledPhotograph("p", "/f", "", "", (), (), "photograph", False, "learn")


def test_kinds_are_those_of_the_commonest_sense_and_no_names() -> None:
    roots = ("flower", "tree", "body of water", "road", "building", "tower", "bridge", "house", "castle")
    synsets = {f"r{n}": Synset((root,), ()) for n, root in enumerate(roots)}
    order = {root: (f"r{n}",) for n, root in enumerate(roots)}
    synsets |= {
        "oak": Synset(("chestnut", "Castanea sativa"), ("r1",)),
        "low": Synset(("dwarf chestnut",), ("oak",)),
        "nut": Synset(("apple",), ()),
        "fruit": Synset(("apple", "apple tree"), ("r1",)),
        "people": Synset(("church",), ()),
        "stone": Synset(("church", "church building"), ("r4",)),
        "amazon": Synset(("Amazon",), ("r2",)),
    }
    order |= {"chestnut": ("oak",), "dwarf chestnut": ("low",), "apple": ("nut", "fruit"), "apple tree": ("fruit",)}
    order |= {"church": ("people", "stone"), "church building": ("stone",), "amazon": ("amazon",)}
    words = region_vocabulary(synsets, order)
    tree, building, water = (REGIONS.index(name) for name in ("tree", "building", "water"))
    kinds = {word for word, (_, whole) in words.items() if not whole}
    added = {"chestnut", "dwarf chestnut", "apple tree", "church", "church building"}
    assert kinds == added | {*TIMBER, *BLOOMS, *PEOPLE, "body of water", "tower", "bridge", "house", "castle"}
    assert words["dwarf chestnut"] == (tree, False)
    assert words["church"] == (building, False)
    assert words["lake"] == (water, True)
    assert words["tree"] == (tree, True)
    assert words["tulip"] == (REGIONS.index("flower"), False)
    assert [words[word][0] for word in ("wood", "woods")] == [REGIONS.index("wood"), tree]
    assert words["woman"] == (REGIONS.index("person"), False)
    assert all(name in REGIONS[1:] for name in WHOLE)


def test_the_fit_tells_regions_apart_and_those_without_outlines_are_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, 6, generator=generator)
    target = [0] * 50 + [1] * 200 + [2] * 20
    inputs = centres[target] + torch.randn(270, 6, generator=generator)
    fitted = fit_regions(inputs, target, list(range(270)), {"sky": (1, True)})
    logits = centres @ fitted.weight.T + fitted.bias
    assert logits.argmax(1).tolist() == [0, 1, 2]
    assert float(logits.softmax(1)[:, 3:].sum()) < 1e-6
    assert fitted.names == list(REGIONS)


def test_patches_lie_well_inside_and_not_more_of_a_region_than_teach_something(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (96, 96, 3)).astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(replace(PHOTO, file=f"/{number}", path=tmp_path / f"{number}.png"))

    def box(row: LabelledPhotograph, word: str, left: float, right: float) -> PhotographMask:
        return PhotographMask(row, word, (((left, 0.0), (right, 0.0), (right, 0.5), (left, 0.5)),))

    outlines = [box(rows[0], "sky", 0.0, 0.5), box(rows[0], "other", 0.5, 1.0), box(rows[1], "grass", 0.0, 0.1)]
    things = [box(rows[1], "kettle", 0.5, 0.6), box(rows[1], "tree", 0.9, 1.0)]
    inputs, regions, pictures = region_cells(load("everyday").concepts, outlines, things)
    # 36 x 36 patches: half of the width and of the height are 18 x 18, a tenth 3 x 18 and a part that is not covered.
    counts = {(regions[i], pictures[i]) for i in range(len(regions))}
    assert counts == {(0, 0), (1, 0), (0, 1), (REGIONS.index("grass"), 1), (REGIONS.index("tree"), 1)}
    assert regions.count(1) == MOST_CELLS
    assert regions.count(REGIONS.index("grass")) == 3 * 18
    assert inputs.shape == (len(regions), 1280 + 128 + 2)
    height = inputs[:, -2]
    assert float(height.max()) < 0.5
    torch.testing.assert_close(inputs[:, -1], height.square())
    with pytest.raises(UsageError, match="no outlines"):
        region_cells(load("everyday").concepts, [])


def test_a_picture_is_scored_by_what_has_not_learned_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, outlines = [], []
    whole = (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),)
    half = (((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5)),)
    for number, (word, also) in enumerate((("sky", ()), ("grass", ()), ("rock", ()), ("rock", ("lake", "man")))):
        colour = {"sky": (90, 150, 240), "grass": (60, 130, 40), "rock": (130, 120, 110)}[word]
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{number}.png")
        rows.append(replace(PHOTO, file=f"/{number}", label=word, also=also, path=tmp_path / f"{number}.png"))
        outlines.append(PhotographMask(rows[-1], word, half if word == "sky" else whole))
    learned: list[set[str]] = []

    def cells(branch: object, kept: list[PhotographMask], things: object) -> tuple[torch.Tensor, list[int], list[int]]:
        learned.append({each.photograph.file for each in kept})
        return region_cells(branch, kept)  # type: ignore[arg-type]

    monkeypatch.setattr("binderclip.train.bundled.regions.region_cells", cells)
    scores, shown = region_scores(load("everyday").concepts, rows, outlines, folds=4)
    assert sorted(map(len, learned)) == [3, 3, 3, 3]
    assert set.intersection(*learned) == set()
    sky, grass, rock, water = (list(WHOLE).index(name) for name in ("sky", "grass", "rock", "water"))
    assert shown[:, [sky, grass, rock]].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert shown[:, water].tolist() == [0, 0, 0, -1]  # a lake is said of the last and not outlined
    # The other rock teaches what a rock is; without the one sky there is none.
    assert float(scores[2, rock]) > 1 > float(scores[0, rock])
    assert float(scores[0, sky]) < -5
    assert list(TOLD) == [*WHOLE, "person"]
    assert shown[:, -1].tolist() == [0, 0, 0, -1]  # a man is said of the last
    _, large = region_scores(load("everyday").concepts, rows, outlines, folds=4, least=0.6)
    assert large[:, sky].tolist() == [-1, 0, 0, 0]  # half of the picture is too small now


def test_the_regions_of_the_list() -> None:
    regions = photograph_regions()
    assert {outline.word for outline in regions} == set(REGIONS)
    assert len({(outline.photograph, outline.word) for outline in regions}) == len(regions)
    splits = {
        split: {o.photograph for o in regions if o.photograph.split == split} for split in ("learn", "choose", "report")
    }
    assert [len(splits[split]) >= least for split, least in (("learn", 90), ("choose", 50), ("report", 50))] == [
        True
    ] * 3
    assert not any(outline.word == "other" for outline in regions if outline.photograph.split == "report")
    for outline in regions:
        values = np.concatenate([np.array(ring) for ring in outline.polygons + outline.holes])
        assert values.min() >= 0
        assert values.max() <= 1
