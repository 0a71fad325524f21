"""Concept frequency (p095, arXiv 2405.21070): the loop over all concepts, plurals, negatives, mistakes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.curate import concept_frequency, word_forms
from binderclip.errors import UsageError

WORDS = st.sampled_from(["Red", "bow", "ties", "tie", "bird", "CRANES", "crane", "foxes", "x2", "-", "it's"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
NAMES = st.lists(st.sampled_from(["red", "bow tie", "crane", "fox", "birds"]), min_size=1, max_size=3)


def looped(captions: list[str], names: list[list[str]], against: dict[str, list[str]]) -> list[int]:
    """As the paper says it: every caption against every name of every concept."""

    def bag(text: str) -> list[str]:
        return re.sub("[^a-z ]", " ", text.lower()).split()

    def has(caption: list[str], word: str) -> bool:
        return any(said in word_forms(word) for said in caption)

    counts = []
    for own in names:
        barred = {word for name in own for text in against.get(name, []) for word in bag(text)}
        counts.append(0)
        for caption in captions:
            words = bag(caption)
            if any(has(words, word) for word in barred):
                continue
            counts[-1] += any(all(has(words, word) for word in bag(name)) for name in own)
    return counts


@settings(max_examples=200)
@given(captions=st.lists(TEXTS, max_size=8), names=st.lists(NAMES, min_size=1, max_size=4))
def test_it_is_the_loop_over_captions_and_concepts(captions: list[str], names: list[list[str]]) -> None:
    against = {"crane": ["bird"]} if any("crane" in own for own in names) else {}
    assert concept_frequency(captions, names, negatives=against).tolist() == looped(captions, names, against)
    joined = [" or ".join(own) for own in names]
    assert concept_frequency(captions, joined, negatives=against).tolist() == looped(captions, names, against)


def test_names_are_split_brackets_left_out_and_words_may_stand_apart() -> None:
    captions = ["a tie that is red", "red ties", "Tie!", "an old sub", "submarines", "t-shirt", "shirts, t"]
    concepts = ["red tie (for men)", "submarine / sub", "t-shirt", ["tie or sub"]]
    assert concept_frequency(captions, concepts).tolist() == [2, 2, 2, 0]


def test_a_caption_counts_once_for_all_names() -> None:
    assert concept_frequency(["a dog, a hound, dogs"], ["dog or hound"]).tolist() == [1]


def test_another_lemmatizer_takes_the_place_of_the_rules() -> None:
    assert concept_frequency(["oxen", "foxes"], ["ox"], lemmatize=lambda word: word).tolist() == [0]
    assert concept_frequency(["oxen", "foxes"], ["ox"], lemmatize=lambda word: "ox").tolist() == [2]


MEET = """
cookies cookie, buses bus, busses bus, potatoes potato, tomatoes tomato, dogs dog, boxes box, churches church,
glasses glass, cherries cherry, pies pie, hens hen, geese goose, houses house, horses horse, shoes shoe, toes toe,
photos photo, pianos piano, heroes hero, volcanoes volcano, volcanos volcano, movies movie, zombies zombie,
ties tie, dies die, dice die, axes axe, axes ax, axes axis, oases oasis, crises crisis, cacti cactus,
cactuses cactus, fungi fungus, octopuses octopus, lenses lens, gases gas, quizzes quiz, waltzes waltz, mazes maze,
prizes prize, knives knife, leaves leaf, wolves wolf, scarves scarf, scarfs scarf, roofs roof, giraffes giraffe,
caves cave, gloves glove, olives olive, waves wave, men man, women woman, firemen fireman, snowmen snowman,
humans human, children child, people person, mice mouse, feet foot, teeth tooth, oxen ox, monkeys monkey,
toys toy, bees bee, trees tree, menus menu, taxis taxi, skis ski, atlases atlas, canvases canvas, dresses dress,
dishes dish, peaches peach, aches ache, headaches headache, canoes canoe, studios studio, zoos zoo, irises iris,
bus bus, is is
"""
APART = """
glass glas, bus buss, lens len, gas ga, bus bu, tennis tenni, this thi, his hi, atlas atla, canvas canva,
axe axis, ax axis, caress care, princes princess, news new, iris iri, cactus cactu, asses as, mars marsh,
pass pas, dress dres, ca cat, man mane, ma man, human humen, pi pie, bee be, toe to, shoe shoo, wolf wolve,
fee feet, cat catty, boss bo, glove glof
"""


def pairs(text: str) -> list[tuple[str, str]]:
    return [
        (one, other)
        for pair in text.replace("\n", " ").split(",")
        for one, *others in [pair.split()]
        for other in others
    ]


@pytest.mark.parametrize(("plural", "word"), pairs(MEET))
def test_a_word_meets_its_plurals_both_ways(plural: str, word: str) -> None:
    assert plural in word_forms(word)
    assert word in word_forms(plural)
    assert concept_frequency([f"two {plural}!"], [word]).tolist() == [1]
    assert concept_frequency([f"a {word}"], [f"{plural} of all kinds", plural]).tolist() == [0, 1]


@pytest.mark.parametrize(("one", "other"), pairs(APART))
def test_other_words_stay_apart_both_ways(one: str, other: str) -> None:
    assert one not in word_forms(other)
    assert other not in word_forms(one)
    assert concept_frequency([one, other], [other, one]).tolist() == [1, 1]


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="needs a concept"):
        concept_frequency(["a"], [])
    with pytest.raises(UsageError, match="without a letter: '42'"):
        concept_frequency(["a"], ["42"])
    with pytest.raises(UsageError, match="no concept is named 'heron'"):
        concept_frequency(["a"], ["crane"], negatives={"heron": ["bird"]})
