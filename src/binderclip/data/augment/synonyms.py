"""A small table of English words that may stand for each other in a caption, and of words that carry no picture."""

from __future__ import annotations

__all__ = ["STOP_WORDS", "SYNONYMS"]

_STOP_WORDS = """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can could did do does doing down during each few for from further had has have having he her here hers herself
    him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
    other our ours ourselves out over own same she should so some such than that the their theirs them themselves then
    there these they this those through to too under until up very was we were what when where which while who whom why
    will with would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Function words of English, lower case."""

_GROUPS = """
    airplane aeroplane plane | alarm siren | animal creature beast | automobile car auto | baby infant | bag sack |
    ball sphere | beautiful lovely pretty | big large huge | bike bicycle | boat vessel | boy lad | bright vivid |
    building edifice | bush shrub | candy sweet | cartoon comic | cat feline | child kid youngster | circle disc ring |
    city town | clothing clothes garment | coat jacket | cookie biscuit | couch sofa | cup mug | dark dim |
    device gadget appliance | dish plate | dog hound canine | doctor physician | drawing sketch illustration |
    drink beverage | error mistake | face visage | fall autumn | fast quick rapid | film movie | fire flame blaze |
    flag banner | flower blossom bloom | food meal | forest woods | garbage trash rubbish | gift present | girl lass |
    gray grey | hair fur | happy glad joyful | hat cap | hill mound | holiday vacation | horse steed | house home |
    icon symbol sign | image picture | jar pot | job work | kettle teapot | lamp light | letter mail |
    little small tiny | man gentleman guy | map chart | money cash | mountain peak | mouse rodent | music melody |
    ocean sea | old aged ancient | package parcel | paper sheet | party celebration | path trail | pencil crayon |
    person human individual | phone telephone | photo photograph snapshot | pig hog | pistol gun | plant herb |
    play perform | quiet silent calm | rabbit bunny hare | road street | rock stone | round circular | sad unhappy |
    sailboat sailing-boat | ship vessel | shirt blouse | shoe boot | shop store | smiling grinning | snake serpent |
    soil ground earth | stop halt | storm tempest | storey floor | style manner | taxi cab | television tv |
    tool implement instrument | toy plaything | train railway | truck lorry | tumbler glass | vehicle conveyance |
    walk stroll | wall barrier | warning alert caution | weapon arm | white pale | wind breeze | woman lady |
    wooden timber | young youthful
"""


def _table() -> dict[str, tuple[str, ...]]:
    synonyms: dict[str, list[str]] = {}
    for group in _GROUPS.split("|"):
        words = group.split()
        for word in words:
            synonyms.setdefault(word, []).extend(other for other in words if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in synonyms.items()}


SYNONYMS = _table()
"""Each word, lower case, with those that may stand for it."""
