"""A pool of descriptions to name heads with, and the role (colour, shape, animal, ...) of every text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from binderclip.errors import UsageError

OTHER = "other"

# Words of each role, and the sentences they are put into; the packs' own keywords and names say the rest.
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "colour": (
        "red orange yellow green blue purple pink brown black white grey beige turquoise gold silver colourful pale "
        "dark bright monochrome rainbow-coloured",
        ("{}", "a {} picture", "a {} thing on white"),
    ),
    "shape": (
        "round square triangular rectangular oval star-shaped heart-shaped long thin pointed curved tall wide hollow "
        "spiral diagonal vertical horizontal symmetrical circle triangle star heart arrow cross",
        ("{}", "a {} shape"),
    ),
    "texture": (
        "striped checked dotted shiny furry wooden metallic glossy rough smooth transparent blurry noisy patterned "
        "woven brick plain shaded",
        ("{}", "a {} surface"),
    ),
    "style": (
        "cartoon|silhouette|outline|line drawing|sketch|photograph|icon|clip art|flat drawing|logo|emoji|painting|"
        "three-dimensional drawing",
        ("{}", "in the style of a {}"),
    ),
    "number": (
        "one|two|three|four|five|many|several|a single|a pair of|a crowd of|a row of|letter|digit|text|writing",
        ("{}", "{} objects"),
    ),
    "place": (
        "beach|forest|desert|street|city|kitchen|office|garden|sea|sky|field of grass|mountain|river|room|island|night|"
        "sunset|snow|brick wall|gravel|cloudy sky",
        ("{}", "a {} background"),
    ),
    "position": (
        "left|right|top|bottom|centre|corner|edge",
        ("something on the {}", "the {} of the picture"),
    ),
    "size": ("tiny small large huge", ("{}", "a {} thing")),
}
CATEGORY_ROLES = {
    "animals": "animal", "buildings": "building", "computer": "computer", "decorations": "decoration",
    "electronics": "computer", "food": "food", "geography": "place", "people": "person", "plants": "plant",
    "recreation": "sport and game", "shapes": "shape", "signs and symbols": "sign", "tools": "tool",
    "transportation": "vehicle", "office": "tool", "education": "tool", "containers": "tool", "logos": "sign",
}  # fmt: skip
"""Role of a top category of the clip-art pack."""

_SUBGROUP_ROLES = (
    ("animal-", "animal"), ("cat-face", "animal"), ("monkey-face", "animal"), ("plant-", "plant"), ("food-", "food"),
    ("drink", "food"), ("dishware", "food"), ("face-", "face"), ("emotion", "face"), ("heart", "shape"),
    ("country-flag", "flag"), ("flag", "flag"), ("subdivision-flag", "flag"), ("geometric", "shape"),
    ("person", "person"), ("family", "person"), ("hand", "person"), ("body-parts", "person"),
    ("transport-sign", "sign"), ("transport-", "vehicle"), ("place-building", "building"),
    ("place-religious", "building"), ("place-", "place"), ("sky & weather", "place"), ("time", "sign"),
    ("sport", "sport and game"), ("game", "sport and game"), ("event", "sport and game"),
    ("award-medal", "sport and game"), ("computer", "computer"), ("phone", "computer"), ("light & video", "computer"),
    ("keycap", "number"), ("alphanum", "number"), ("math", "number"), ("clothing", "clothing"),
    ("musical-instrument", "music"), ("music", "music"), ("sound", "music"),
)  # fmt: skip
_GROUP_ROLES = {"Objects": "tool", "Symbols": "sign", "Flags": "flag"}
# What a description is about stands before these; "a picture of" is handled by looking at the whole text afterwards.
_TAIL = re.compile(r"\b(?:on|in|at|with|under|behind|of|from|before|near)\b")
_WORD = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True)
class DescriptionPool:
    """Texts to choose from, each with the role it speaks of.

    Attributes:
        texts: M descriptions, all different.
        roles: of each.
    """

    texts: tuple[str, ...]
    roles: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


@lru_cache(maxsize=1)
def description_pool() -> DescriptionPool:
    """About 1,600 descriptions: colours, shapes, textures, places and other attributes; the keywords of the clip-art
    pack; the names of the emoji pack. They take the place of the paper's 3,498 sentences by a language model.

    A keyword's role is that of the category most of its pictures are in.
    """
    texts_of = dict(_attribute_texts())
    for text, role in {**_keywords(), **_emoji()}.items():
        texts_of.setdefault(text, role)
    return DescriptionPool(tuple(texts_of), tuple(texts_of.values()))


def text_roles(texts: Sequence[str]) -> list[str]:
    """The role of each text by its last known word before a preposition; `other` where no word is known.

    Args:
        texts: any descriptions, such as "a red apple on a beach" (food).

    Raises:
        UsageError: one text instead of several.
    """
    if isinstance(texts, str):
        raise UsageError(f"texts must be a list of texts, not the single text {texts!r}")
    known = _lexicon()
    return [_role_of(text.lower().strip(), known) for text in texts]


def _role_of(text: str, known: dict[str, str]) -> str:
    if text in known:
        return known[text]
    for part in (_TAIL.split(text)[0], text):
        words = _WORD.findall(part)
        for end in range(len(words), 0, -1):
            for length in (3, 2, 1):
                phrase = " ".join(words[max(0, end - length) : end])
                for form in (phrase, phrase.removesuffix("s")):
                    if form in known:
                        return known[form]
    return OTHER


@lru_cache(maxsize=1)
def _lexicon() -> dict[str, str]:
    pool = description_pool()
    words = {word: role for role, (words, _) in ATTRIBUTES.items() for word in _split(words)}
    return {**{text.lower(): role for text, role in zip(pool.texts, pool.roles, strict=True)}, **words}


def _split(words: str) -> list[str]:
    return words.split("|") if "|" in words else words.split()


def _attribute_texts() -> list[tuple[str, str]]:
    return [
        (pattern.format(word), role)
        for role, (words, patterns) in ATTRIBUTES.items()
        for word in _split(words)
        for pattern in patterns
    ]


def _keywords(least: int = 2) -> dict[str, str]:
    """Keywords of at least so many clip-art pictures."""
    from binderclip.data.sets.packs import load_packs

    data = load_packs("openclipart")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label, words in zip(data.labels.tolist(), data.attributes["keywords"], strict=True):
        category = data.classes[label] if label >= 0 else ""
        for word in words if words is not None else ():
            counts[str(word)][category] += 1
    roles = {}
    for word, tally in counts.items():
        category, count = tally.most_common(1)[0]
        total = sum(tally.values())
        if total >= least and word.replace(" ", "").isalpha():
            roles[word] = CATEGORY_ROLES.get(category, OTHER) if count > total / 2 else OTHER
    return roles


def _emoji() -> dict[str, str]:
    from binderclip.data.sets.packs import load_packs

    data = load_packs("noto-emoji")
    columns = (data.attributes[name] for name in ("name", "group", "subgroup"))
    roles = {}
    for name, group, subgroup in zip(*columns, strict=True):
        # Flags and "man: curly hair" would drown the rest in names nobody would describe a head by.
        if name and ":" not in name and len(name.split()) <= 3 and not str(subgroup).startswith("family"):
            part = next((role for start, role in _SUBGROUP_ROLES if str(subgroup).startswith(start)), None)
            roles[str(name)] = part or _GROUP_ROLES.get(str(group), OTHER)
    return roles
