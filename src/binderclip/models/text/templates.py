"""How a class name becomes sentences: named sets of templates.

A template is a sentence with one `{}` where the name goes; `a/an {}` takes the article that the name wants ("an
elephant"), and none where the name has one. The sets are the ones the field compares with, so that a figure quoted for
"80 templates" can be repeated by name; papers' templates stay as published ("a photo of a elephant.").
"""

from __future__ import annotations

from collections.abc import Sequence

from binderclip.errors import UsageError

ARTICLE = "a/an {}"
"""Where a template takes a name with its article."""

_IMAGENET_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # The label is the sentence: for captions, and for labels that are sentences already.
    "name": ("{}",),
    # A neutral handful that fits photographs and drawings alike; the command line's default.
    "simple": ("{}", "a/an {}.", "a picture of a/an {}."),
    "photo": ("a photo of a {}.",),
    "clipart": ("{}", "a drawing of a {}.", "clip art of a {}.", "an icon of a {}.", "a cartoon of a {}."),
    # Seven of the eighty that carry nearly all of their gain on ImageNet (Radford et al., 2021, notebook).
    "imagenet-7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    # The eighty of the CLIP paper's ImageNet classifier (Radford et al., 2021).
    "imagenet-80": _IMAGENET_80,
    # CLIP Surgery's (arXiv 2304.05653): the eighty and five of a scene.
    "clip-surgery-85": (
        *_IMAGENET_80,
        "there is a {} in the scene.",
        "there is the {} in the scene.",
        "this is a {} in the scene.",
        "this is the {} in the scene.",
        "this is one {} in the scene.",
    ),
}


def resolve_templates(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """Templates by the name of a set, as one template, or as a sequence of templates.

    Args:
        templates: a key of `TEMPLATES`, a sentence with one `{}`, several of these, or None for `("{}",)`.

    Raises:
        UsageError: an unknown set, no template at all, or one without exactly one `{}`.
    """
    if templates is None:
        return TEMPLATES["name"]
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" not in templates:
            raise UsageError(
                f"templates {templates!r} is neither a set ({', '.join(TEMPLATES)}) nor a sentence with {{}} in it"
            )
        templates = (templates,)
    sentences = tuple(templates)
    if not sentences:
        raise UsageError("templates is empty: give at least one, such as 'a photo of a {}.'")
    for template in sentences:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UsageError(f"template {template!r} must be a sentence with exactly one {{}} where the name goes")
    return sentences


def fill(template: str, name: str) -> str:
    """The sentence of one name; braces inside the name stay what they are.

    Examples:
        >>> fill("a picture of a/an {}.", "elephant"), fill("a photo of a {}.", "elephant")
        ('a picture of an elephant.', 'a photo of a elephant.')
    """
    if ARTICLE in template:
        from binderclip.models.text.article import with_article

        return template.replace(ARTICLE, with_article(name))
    return template.replace("{}", name)
