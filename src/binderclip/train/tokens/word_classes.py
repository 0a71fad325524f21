"""Word classes of captions by a short lexicon and endings: enough to put nouns before adjectives before verbs.

Captions name things, so what no rule knows is a noun. The words below are the commonest of English captions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["ADJECTIVE", "NOUN", "OTHER", "VERB", "split_words", "word_classes"]

NOUN, ADJECTIVE, VERB, OTHER = 1, 2, 3, 4


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLOSED = _words(
    """
    a an the this that these those some any each every no all both half another such what which who whom whose where
    when why how i you he she it we they me him her us them my your his its our their mine yours ours theirs myself
    himself herself itself themselves one two three four five six seven eight nine ten and or but nor so yet if then
    than because while as of in on at by for with from to into onto over under above below between among through
    across along around behind beside besides beyond near off out up down about against before after during without
    within upon toward towards via per not never very too also just only even still again once here there almost quite
    rather well away together back forward not's can could will would shall should may might must let vs etc s t
    """
)
_AUXILIARY = _words(
    """
    is are was were be been being am has have had do does did
    """
)
_DETERMINER = _words(
    """
    a an the this that these those some any each every no my your his her its our their
    """
)
_ADJECTIVES = _words(
    """
    red green blue black white yellow pink purple brown grey gray orange golden silver dark light bright pale big
    small large little tiny huge tall short long wide narrow high low deep flat thick thin fat slim round square oval
    old new young modern ancient antique vintage fresh clean dirty wet dry hot cold warm cool happy sad angry funny
    cute pretty ugly lovely nice good bad great best better simple plain fancy rich poor strong weak hard soft heavy
    empty full open closed broken whole single double triple left right upper lower inner outer main other same
    different various several many few more most first second third last next real fake raw ripe sweet sour sharp
    blunt smooth rough loud quiet fast slow quick lazy busy sleepy wild tame alive dead blank bare blond blonde bald
    royal sacred holy evil scary electric digital medical chemical musical tropical classical national international
    american british chinese japanese french german indian african european christian transparent colorful colourful
    """
)
_VERBS = _words(
    """
    go goes went gone get gets got make makes made take takes took taken see sees saw seen come comes came give gives
    gave given hold holds held sit sits sat stand stands stood lie lies lay run runs ran walk walks jump jumps fly
    flies flew eat eats ate drink drinks drank wear wears wore worn carry carries ride rides rode play plays read
    reads write writes wrote written look looks show shows shown say says said sing sings sang swim swims swam climb
    climbs throw throws threw thrown catch catches caught push pushes pull pulls cut cuts cook cooks hang hangs hung
    sleep sleeps slept smile smiles laugh laughs cry cries wave waves kick kicks grow grows grew grown become becomes
    became use uses used keep keeps kept put puts contain contains feature features depict depicts represent
    represents
    """
)
_ING_NOUNS = _words(
    """
    king ring wing string spring thing something nothing anything everything building painting wedding morning evening
    clothing ceiling earring sting swing sling pudding dressing stocking drawing warning sibling duckling lightning
    icing herring parking crossing lettering bedding fencing
    """
)
_ED_NOUNS = _words(
    """
    bed seed shed sled weed reed steed breed speed creed feed need deed thoroughbred
    """
)
_LY_NOUNS = _words(
    """
    fly butterfly dragonfly family jelly belly lily holly bully trolley ally assembly italy reply supply firefly
    """
)
_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "ish", "able", "ible", "ical", "ive", "ese", "esque")
_ENDING_NOUNS = _words(
    """
    fish dish starfish jellyfish goldfish radish olive hive table vegetable cable chinese cheese geese bible hideous
    dive native archive detective locomotive mouthful handful octopus
    """
)


def split_words(text: str) -> list[str]:
    """Words and punctuation marks, in order.

    Args:
        text: a caption.
    """
    return re.findall(r"\w+(?:['’-]\w+)*|[^\w\s]", text)


def word_classes(words: Sequence[str]) -> list[int]:
    """1 noun, 2 adjective, 3 verb, 4 anything else, for each word of a caption.

    Args:
        words: as `split_words` gives them.
    """
    return list(_classes(tuple(word.lower() for word in words)))


@lru_cache(maxsize=65_536)
def _classes(words: tuple[str, ...]) -> tuple[int, ...]:
    classes: list[int] = []
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        named = before in _DETERMINER or (bool(classes) and classes[-1] == ADJECTIVE)
        classes.append(_class(word, named))
    return tuple(classes)


def _class(word: str, named: bool) -> int:
    """The class of one word; `named` after a determiner or an adjective, where a word that can be both is a noun."""
    if not any(c.isalpha() for c in word) or word[0].isdigit() or word in _CLOSED:
        return OTHER
    if word in _AUXILIARY:
        return VERB
    if word in _ADJECTIVES:
        return ADJECTIVE
    if word in _VERBS:
        return NOUN if named else VERB
    if word.endswith("ly") and word not in _LY_NOUNS:
        return OTHER
    if word.endswith(_ADJECTIVE_ENDINGS) and word not in _ENDING_NOUNS:
        return ADJECTIVE
    if len(word) > 4 and word.endswith("ing") and word not in _ING_NOUNS:
        return VERB
    if len(word) > 3 and word.endswith("ed") and word not in _ED_NOUNS:
        return VERB
    return NOUN
