"""Settings of presets changed by text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from binderclip.errors import UsageError
from binderclip.segment import LastBlock, Whole, describe, override, parts_of, vanilla


def test_single_settings_are_replaced_and_the_rest_stays() -> None:
    parts = parts_of("value")
    changed = override(
        parts,
        [(("rule", "scale"), 40), (("last_block", "residual"), True), (("last_block", "map"), "vanilla")],
    )
    assert changed == replace(parts, rule=replace(parts.rule, scale=40), last_block=LastBlock(vanilla, residual=True))
    assert override(parts, [(("resolution", "size"), 192)]).resolution == Whole(192)
    shown = describe(changed)
    assert shown["last_block"] == {"part": "LastBlock", "map": "vanilla", "residual": True, "mlp": False}
    assert shown["rule"]["scale"] == 40


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("colour", 1, "a segmenter's parts are last_block"),
        ("rule.scales", 1, "ClassRule has no 'scales'; it has scale, threshold"),
        ("rule.scale", "much", "must be a number|scales"),
        ("last_block.residual", 3, "must be true or false"),
        ("last_block.map", "magic", "there are .*identity"),
        ("last_block.map", "none", "there are .*identity"),
        ("refine", "magic", "there are none, .*pamr"),
        ("rule", 3, "rule is a part"),
        ("refine.3", "x", "not one of"),
        ("rule.over", "pixels", "over is classes, words or given"),
    ],
)
def test_bad_changes_say_what_there_is(path: str, value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        override(parts_of("value"), [(path.split("."), value)])
