from __future__ import annotations

import pytest
from open_clip import zero_shot_metadata

from binderclip.errors import UsageError
from binderclip.models.text.templates import TEMPLATES, fill, resolve_templates


def test_the_eighty_are_the_fields_eighty() -> None:
    theirs = [template("toaster") for template in zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES]
    assert [fill(template, "toaster") for template in TEMPLATES["imagenet-80"]] == theirs
    seven = [template("toaster") for template in zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES]
    assert sorted(fill(t, "toaster") for t in TEMPLATES["imagenet-7"]) == sorted(seven)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_set_holds_sentences_with_one_place(name: str) -> None:
    assert resolve_templates(name) == TEMPLATES[name]
    assert len(set(TEMPLATES[name])) == len(TEMPLATES[name])
    assert all(template.count("{}") == 1 for template in TEMPLATES[name])


def test_one_template_several_or_none() -> None:
    assert resolve_templates("a {} here") == ("a {} here",)
    assert resolve_templates(["a {}", "the {}"]) == ("a {}", "the {}")
    assert resolve_templates(None) == ("{}",)


@pytest.mark.parametrize(
    ("bad", "message"), [("phto", "imagenet-80"), ([], "empty"), (["cat"], "exactly one"), (["{} {}"], "one")]
)
def test_bad_templates_are_named(bad, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_templates(bad)
