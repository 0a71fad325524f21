"""p051: every way that its verdict can turn, on made-up rows, and the pictures and features that it measures with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data.made.words import polygon_mask
from binderclip.studies import Row, Table
from binderclip.studies.papers import p051_parrot as parrot
from binderclip.studies.protocols.training.selections import CONCEPTS


def made_parrot(spots=0.3, other_spots=0.0, clean_spots=0.0, sees=0.15, other_sees=0.24, clean_sees=0.25, co=0.1):
    spotting = {parrot.PARROT: spots, parrot.OTHER: other_spots, parrot.CLEAN: clean_spots}
    accuracy = {parrot.PARROT: sees, parrot.OTHER: other_sees, parrot.CLEAN: clean_sees}
    rows = [Row(parrot.SPOTTING, name, value) for name, value in spotting.items()]
    rows += [Row(parrot.ACCURACY, name, value) for name, value in accuracy.items()]
    lost = ((parrot.CO, co), (parrot.CONTROL, 0.02))
    return Table([*rows, *(Row(parrot.LOST, parrot.PARROT, value, name) for name, value in lost)])


def test_p051_stands_on_reading_and_on_what_it_costs(fails):
    fails("p051", made_parrot(), "all met", [])
    fails("p051", made_parrot(other_spots=0.4), "not met", ["trained with"])
    fails("p051", made_parrot(clean_spots=0.4), "not met", ["trained with"])
    # Less than without text alone is not enough: any text in the pictures could do that.
    fails("p051", made_parrot(other_sees=0.14), "not met", ["and is less accurate", "another word costs"])
    fails("p051", made_parrot(clean_sees=0.14), "not met", ["and is less accurate"])
    fails("p051", made_parrot(other_sees=0.2), "essential met", ["another word costs"])
    fails("p051", made_parrot(co=0.01), "essential met", ["painting over"])


def test_gradients_are_local_and_do_not_see_which_side_is_dark():
    image = torch.zeros(1, 3, parrot.SIDE, parrot.SIDE)
    image[..., 40:, :] = 1.0  # one horizontal edge, in the middle of the sixth row of cells
    found = parrot.gradients(image)
    cells = parrot.SIDE // parrot.CELL
    cell = found.reshape(parrot.TURNS, cells, cells)
    assert torch.equal(parrot.gradients(1 - image), found)
    assert set(cell.nonzero()[:, 1].tolist()) == {4, 5}
    # A gradient straight down is a quarter of the way round, half of the unsigned turns.
    assert set(cell.nonzero()[:, 0].tolist()) == {parrot.TURNS // 2}


@pytest.mark.parametrize(("ground", "letters"), [(255, 0), (0, 255)])
def test_words_are_printed_legibly_and_where_they_are_said_to_be(ground, letters):
    blank = Image.new("RGB", (parrot.SIDE, parrot.SIDE), (ground,) * 3)
    mask = polygon_mask(parrot.printed(blank, "building").polygons, (parrot.SIDE, parrot.SIDE))
    shown = np.asarray(parrot.printed(blank, "building").image)[..., 0]
    assert letters in shown[mask]
    assert (shown[~mask] == ground).all()
    above = polygon_mask(parrot.printed(blank, "building", 0.15).polygons, (parrot.SIDE, parrot.SIDE))
    assert not (above & mask).any()
    assert all(parrot.printed(blank, word).words == [word] for word in CONCEPTS)


def test_pictures_name_their_concepts_and_no_concept_floods_the_set():
    images, captions, named = parrot.named_pictures("val+test", parrot.TESTED)
    assert len(images) == len(captions) == len(named)
    assert named.any(1).all()
    words = [text.replace("-", " ") for text in captions]
    assert all(CONCEPTS[c] in words[row] for row, c in np.argwhere(named))
    # Rows that came for another concept may name one more often, but not much.
    assert named.sum(0).max() < 2 * parrot.TESTED
