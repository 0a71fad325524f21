"""English lines for scenes: "two cats and a red flower", "a cat to the left of a dog"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_IRREGULAR = {
    "woman": "women",
    "man": "men",
    "child": "children",
    "person": "people",
    "mouse": "mice",
    "leaf": "leaves",
}
_RELATIONS = {"left-right": "to the left of", "top-bottom": "above", "row": "to the left of"}
_CORNERS = {
    "grid": ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
    "grid3": tuple(
        f"at the {row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")
    ),
}


def article(noun: str) -> str:
    """The noun behind "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The plural of a noun phrase, by its last word."""
    *front, last = noun.split(" ")
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        many = last + "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        many = last[:-1] + "ies"
    else:
        many = last + "s"
    return " ".join([*front, many])


def described(name: str, values: Mapping[str, object], damaged: bool = False) -> str:
    """The class name with its size, colour and state in front: "large red cat", "damaged cat"."""
    words = ["damaged"] if damaged else []
    size, colour = values.get("size"), values.get("colour")
    words += [size] if isinstance(size, str) else []
    words += [str(colour)] if colour is not None else []
    return " ".join([*words, name])


def listed(nouns: Sequence[str]) -> str:
    """ "a cat, two dogs and a tree" from nouns in order; equal ones are counted."""
    counts: dict[str, int] = {}
    for noun in nouns:
        counts[noun] = counts.get(noun, 0) + 1
    parts = []
    for noun, count in counts.items():
        number = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
        parts.append(article(noun) if count == 1 else f"{number} {plural(noun)}")
    if not parts:
        return "an empty scene"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(nouns: Sequence[str], slots: object = None, places: Sequence[int] = ()) -> str:
    """The line of a scene, with the relation that its slots stand for.

    Args:
        nouns: the described objects, in order.
        slots: the `slots` argument of `scenes`.
        places: the slot of each object.
    """
    if isinstance(slots, str) and slots in _RELATIONS and len(nouns) > 1:
        return f" {_RELATIONS[slots]} ".join(article(noun) for noun in nouns)
    if isinstance(slots, str) and slots in _CORNERS and nouns:
        return listed([f"{noun} {_CORNERS[slots][place]}" for noun, place in zip(nouns, places, strict=True)])
    return listed(nouns)
