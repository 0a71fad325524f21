"""Sound and damaged, in words: every state of an object in every template, as one vector a pole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

NORMAL_STATES = (
    "{}", "flawless {}", "perfect {}", "unblemished {}", "{} without flaw", "{} without defect", "{} without damage",
)  # fmt: skip
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")

_KINDS = (
    "close-up photo of {} {{}}", "bright photo of {} {{}}", "dark photo of {} {{}}", "jpeg corrupted photo of {} {{}}",
    "blurry photo of {} {{}}", "photo of {} {{}}", "photo of {} small {{}}", "photo of {} large {{}}",
    "photo of {} {{}} for visual inspection", "photo of {} {{}} for anomaly detection",
)  # fmt: skip
TEMPLATES = (
    "a cropped photo of the {}.",
    *(f"a {kind.format(article)}." for kind in _KINDS for article in ("a", "the")),
)
"""The 21 templates of the ensemble."""


def state_prompts(
    name: str,
    states: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> list[str]:
    """Every state of an object in every template.

    Args:
        name: the object, such as `textile`.
        states: phrases with one `{}` for the object; a phrase without stands as it is.
        templates: sentences with one `{}` for the phrase.

    Raises:
        UsageError: an empty name, no state, no template, or one with too many `{}`.

    Examples:
        >>> state_prompts("screw", ["damaged {}"], ["a photo of a {}."])
        ['a photo of a damaged screw.']
    """
    if not isinstance(name, str) or not name.strip():
        raise UsageError(f"name must say what the object is, such as 'textile', not {name!r}")
    if isinstance(states, str) or not states or not all(isinstance(s, str) and s.strip() for s in states):
        raise UsageError(f"states must be a list of phrases such as 'damaged {{}}', not {states!r}")
    if wrong := [state for state in states if state.count("{}") > 1]:
        raise UsageError(f"state {wrong[0]!r} has more than one {{}} for the object")
    if isinstance(templates, str) or not templates or any(t.count("{}") != 1 for t in templates):
        raise UsageError(f"templates must be sentences with exactly one {{}}, not {templates!r}")
    phrases = [state.replace("{}", name) for state in states]
    return [template.replace("{}", phrase) for phrase in phrases for template in templates]


def state_vectors(
    model: Any,
    name: str,
    *,
    normal: Sequence[str] = NORMAL_STATES,
    anomalous: Sequence[str] = ANOMALOUS_STATES,
    templates: Sequence[str] = TEMPLATES,
) -> Float[Tensor, "2 E"]:
    """Unit vectors of the normal and of the anomalous pole: each the mean of its encoded prompts.

    Args:
        model: an `ImageTextModel`.
        name: the object.
        normal: phrases for a sound object.
        anomalous: phrases for a damaged one.
        templates: sentences around them.

    Raises:
        UsageError: see `state_prompts`; a phrase that is on both sides.
    """
    refuse_bare_module(model, "state_vectors")
    if shared := sorted(frozenset(normal) & frozenset(anomalous)):
        raise UsageError(f"{shared[0]!r} is a normal and an anomalous state: it cannot tell them apart")
    poles = {
        "normal": state_prompts(name, normal, templates),
        "anomalous": state_prompts(name, anomalous, templates),
    }
    # The raw embeddings are averaged, and only the mean is brought to unit length.
    return model.text_bank(poles).prototypes("mean-raw-unit").float()
