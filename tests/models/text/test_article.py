"""Articles by sound: the expected ones are English, not the code's."""

from __future__ import annotations

import pytest

from binderclip.models.text.article import with_article
from binderclip.models.text.templates import TEMPLATES, fill, resolve_templates

AN = "elephant apple owl orange igloo umbrella hour heirloom honest-man SUV X-ray MRI 8 18 11 uninhabited-island"
A = "cat unicorn university uniform user utensil ukulele European ewe one-way-street horse house T-shirt UFO 7 yacht ZX"


@pytest.mark.parametrize("name", AN.split())
def test_an(name: str) -> None:
    assert with_article(name) == f"an {name}"


@pytest.mark.parametrize("name", A.split())
def test_a(name: str) -> None:
    assert with_article(name) == f"a {name}"


@pytest.mark.parametrize("name", ["a cat", "an owl", "the moon", "my house", "two dogs", "The Beatles"])
def test_names_with_a_word_of_that_kind_keep_it(name: str) -> None:
    assert with_article(name) == name


@pytest.mark.parametrize("name", ["A", "?", "", "  ", "猫", "{}"])
def test_odd_names_come_through(name: str) -> None:
    assert with_article(name).endswith(name)


def test_our_default_has_the_article_and_published_templates_have_not() -> None:
    assert [fill(t, "elephant") for t in resolve_templates("simple")] == [
        "elephant",
        "an elephant.",
        "a picture of an elephant.",
    ]
    assert [fill(t, "a red car") for t in resolve_templates("simple")] == [
        "a red car",
        "a red car.",
        "a picture of a red car.",
    ]
    # CLIP's own templates say "a elephant", and figures quoted for them are of that.
    assert fill(TEMPLATES["photo"][0], "elephant") == "a photo of a elephant."
    assert all("a/an" not in text for name in ("photo", "imagenet-7", "imagenet-80") for text in TEMPLATES[name])
    assert fill("graffiti of a/an {}", "owl {}") == "graffiti of an owl {}"
