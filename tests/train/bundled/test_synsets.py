"""WordNet's noun files, read from a few lines in their format."""

from __future__ import annotations

from pathlib import Path

import pytest

from binderclip.errors import DataError
from binderclip.models import load
from binderclip.train.bundled.data.synsets import (
    everyday_words,
    hypernym_chain,
    imagenet_synsets,
    kinds,
    noun_synsets,
    senses,
)
from binderclip.train.bundled.teachers import imagenet_names

DATA = """\
  1 This software and database is being provided to you
00000001 03 n 01 entity 0 000 | that which exists
00000002 05 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | a living organism
00000003 05 n 01 dog 0 001 @ 00000002 n 0000 | a canine
00000004 05 n 02 beagle 0 small_hound 0 001 @ 00000003 n 0000 | a small dog
00000005 06 n 01 mouse 0 001 @ 00000001 n 0000 | a hand-operated device
00000006 05 n 01 mouse 0 001 @ 00000002 n 0000 | a rodent
00000007 06 n 01 mouse 0 001 @ 00000001 n 0000 | a third meaning
"""
INDEX = """\
  1 This software and database is being provided to you
dog n 1 1 @ 1 1 00000003
beagle n 1 1 @ 1 0 00000004
animal n 1 1 @ 1 1 00000002
mouse n 3 1 @ 3 1 00000006 00000007 00000005
small_hound n 1 1 @ 1 0 00000004
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    return tmp_path


def test_words_and_what_they_are_kinds_of(wordnet: Path) -> None:
    synsets = noun_synsets(wordnet)
    assert synsets["00000004"].lemmas == ("beagle", "small hound")
    chain = hypernym_chain("00000004", synsets)
    assert [synset.lemmas[0] for synset in chain] == ["beagle", "dog", "animal"]  # no entity: it says nothing


def test_a_kind_has_its_members_and_rare_meanings_do_not_count(wordnet: Path) -> None:
    synsets, order = noun_synsets(wordnet), senses(wordnet)
    named = kinds(["00000004", "00000005"], synsets, order)
    assert named["dog"] == named["beagle"] == named["small hound"] == [0]
    assert named["animal"] == [0]
    assert "entity" not in named
    assert "mouse" not in named  # the device is the third meaning
    assert kinds(["00000004", "00000005"], synsets, order, meanings=3)["mouse"] == [1]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.noun"):
        noun_synsets(tmp_path)
    with pytest.raises(DataError, match=r"index\.noun"):
        senses(tmp_path)
    (tmp_path / "data.noun").write_text("00000001 03 n zz\n")
    with pytest.raises(DataError, match="format"):
        noun_synsets(tmp_path)


def test_the_classes_are_offsets_in_the_order_of_the_classifier() -> None:
    offsets = imagenet_synsets()
    assert len(set(offsets)) == 1000
    assert offsets[0] == "01440764"  # tench, the first class of ImageNet


def test_everyday_words_lead_to_classes_of_their_own() -> None:
    names = imagenet_names()
    words = everyday_words(names)
    assert {names[index][0] for index in words["mug"]} == {"coffee mug", "cup", "espresso"}
    assert len(words["swimsuit"]) == 4  # two classes are first called "maillot"
    assert all(word == word.lower().strip() and own == sorted(set(own)) for word, own in words.items())
    with pytest.raises(DataError, match=r"everyday_words\.txt, line \d+: no class is first called"):
        everyday_words(names[:500])


def test_the_model_that_ships_knows_everyday_words() -> None:
    concepts = load("everyday").concepts
    assert concepts is not None
    known = everyday_words(imagenet_names())
    # A scene that photographs named stands before the table.
    scenes = set(concepts.names[concepts.classifier.out_features :])
    assert [word for word, own in known.items() if word not in scenes and concepts.senses.get(word) != own] == []
    assert [concepts.names[index] for index in concepts.meant("a kingfisher")] == [
        "indigo bunting",
        "bee eater",
        "jacamar",
    ]
