"""Scenes of classes that a head learns from, and of classes that it never sees, with drawings of their own splits."""

from __future__ import annotations

from functools import lru_cache

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary

SEEN = (
    "tree", "cat", "heart", "moon", "hat", "sun", "book", "clock", "boat", "car", "flower", "camera", "bottle",
    "house", "folder", "star", "cloud", "balloon", "dog", "phone", "apple", "cake", "bird", "bear", "horse", "bag",
    "shoe", "fish", "battery", "leaf", "train", "umbrella", "bus", "tent", "tiger", "penguin", "globe", "truck",
    "whale", "elephant",
)  # fmt: skip
"""Forty classes to learn from, of the training drawings."""
UNSEEN = (
    "pig", "dolphin", "chicken", "bat", "airplane", "pear", "banana", "strawberry", "bicycle", "scissors",
    "hamburger", "laptop", "fox", "frog", "key", "bell", "drum", "peach", "eggplant",
)  # fmt: skip
"""Nineteen others, of held-out drawings."""
HELD_OUT = "val+test+shift"
GROUNDS = ("plain", "gradient", "noise", "texture", "photo")


@lru_cache(maxsize=4)
def seen_scenes(seed: int, count: int, side: int) -> Scenes:
    """Scenes of two objects of `SEEN`."""
    return _scenes(seed, count, side, SEEN, "train")


@lru_cache(maxsize=4)
def unseen_scenes(seed: int, count: int, side: int) -> Scenes:
    """Scenes of two objects of `UNSEEN`."""
    return _scenes(seed, count, side, UNSEEN, HELD_OUT)


def _scenes(seed: int, count: int, side: int, names: tuple[str, ...], split: str) -> Scenes:
    return scenes(
        seed, count, side, vocabulary=vocabulary(list(names), split=split), objects=2, area=(0.06, 0.3),
        occlusion=0.2, background=list(GROUNDS),
    )  # fmt: skip
