"""A network that is not wrapped is refused in words, at every door that takes an `ImageTextModel`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

import binderclip
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

KINDS = re.compile(r"\b(ImageTextModel|PictureModel|FileEncoder|PairEncoder|PictureEncoder)\b")
# A function that gives a model, or features, is no model.
GIVERS = "Callable"
ELSEWHERE = ("binderclip.cli", "binderclip.workbench", "binderclip.studies")


def rooms() -> Iterator[Any]:
    """Every package of the library that says what is public."""
    for info in pkgutil.walk_packages(binderclip.__path__, "binderclip."):
        if info.ispkg and not info.name.startswith(ELSEWHERE):
            yield importlib.import_module(info.name)


def takes_a_model(function: Any, words: str) -> list[str]:
    """Parameters that are an `ImageTextModel` by their annotation, or one by the docstring."""
    names = []
    for name, parameter in inspect.signature(function).parameters.items():
        annotation = str(parameter.annotation)
        line = re.search(rf"^ +{name}: (?:an?|the) `ImageTextModel`(.*(?:\n {{12,}}.*)*)", words, re.MULTILINE)
        by_words = line is not None and "module" not in line[1]
        if GIVERS not in annotation and (by_words or KINDS.search(annotation)):
            names.append(name)
    return names


def functions_of(public: Any) -> Iterator[tuple[str, Any, Any, str]]:
    """A public function, or a class and its methods: (what is behind its name, owner of a method, function, words)."""
    if inspect.isfunction(public):
        yield "", None, public, public.__doc__ or ""
    if not inspect.isclass(public) or issubclass(public, BaseException) or getattr(public, "_is_protocol", False):
        return
    if not inspect.isabstract(public):
        yield "", None, public, public.__doc__ or ""
    for name, method in inspect.getmembers(public, inspect.isroutine):
        if not name.startswith("_") or name == "__call__":
            # A method of the class itself is bound already.
            yield f".{name}", None if inspect.ismethod(method) else public, method, method.__doc__ or ""


def doors() -> dict[str, tuple[Any, Any, str]]:
    """Public functions, classes and methods with such a parameter: name -> (owner or None, function, parameter)."""
    places: dict[str, tuple[Any, Any, str]] = {}
    for room in rooms():
        for public in (getattr(room, name) for name in getattr(room, "__all__", ())):
            if not str(getattr(public, "__module__", "")).startswith("binderclip."):
                continue
            for suffix, owner, function, words in functions_of(public):
                try:
                    parameters = takes_a_model(function, words)
                except (ValueError, TypeError):  # of no signature, or in C
                    continue
                place = f"{public.__module__}.{public.__qualname__}{suffix}"
                places |= {f"{place}:{parameter}": (owner, function, parameter) for parameter in parameters}
    return places


DOORS = doors()
REFUSAL = r"takes an ImageTextModel, and this is a module Bare; wrap it: model = binderclip\.from_module\(module, pre"


class Bare(nn.Linear):
    """A network that nobody wrapped."""


def call(function: Any, given: list[Any], arguments: dict[str, Any]) -> None:
    called = function(*given, **arguments)
    if inspect.isgenerator(called):
        next(called)


@pytest.mark.parametrize("name", sorted(DOORS))
def test_a_bare_network_is_refused_in_words(name: str) -> None:
    owner, function, parameter = DOORS[name]
    given: list[Any] = [] if owner is None else [object.__new__(owner)]
    arguments: dict[str, Any] = {}
    for each in list(inspect.signature(function).parameters.values())[len(given) :]:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        value = Bare(2, 2) if each.name == parameter else object()
        if each.kind is each.POSITIONAL_ONLY:
            given.append(value)
        elif each.name == parameter or each.default is each.empty:
            arguments[each.name] = value
    with pytest.raises(UsageError, match=REFUSAL):
        call(function, given, arguments)


def test_the_doors_are_seen() -> None:
    assert len(DOORS) > 100
    assert {
        "binderclip.segment.segmenter.Segmenter:model",
        "binderclip.search.index.SearchIndex:model",
        "binderclip.curate.embed.embed_shards:model",
    } <= set(DOORS)


def configuration() -> dict[str, Any]:
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    text = {"context_length": 8, "width": 16, "heads": 2, "layers": 1}
    return {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}


def transformers_model() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return CLIPModel(CLIPConfig(text_config=part, vision_config={**part, "image_size": 16, "patch_size": 8}))


def test_the_message_says_how_to_wrap_what_was_given() -> None:
    with pytest.raises(UsageError) as refused:
        refuse_bare_module(open_clip.CLIP(**configuration()), "Segmenter")
    assert str(refused.value) == (
        "Segmenter takes an ImageTextModel, and this is an open_clip CLIP; wrap it: "
        "model = binderclip.from_module(module, tokenizer=ARCHITECTURE)"
    )
    with pytest.raises(UsageError, match=r"a transformers CLIPModel; .*\(module, preprocess=PROCESSOR\)"):
        refuse_bare_module(transformers_model(), "Segmenter")
    with pytest.raises(UsageError, match="a module Bare"):
        refuse_bare_module([binderclip.models.build(configuration()), Bare(2, 2)], "score_regions")


def test_what_is_no_bare_network_goes_on() -> None:
    for model in ("small", None, binderclip.models.build(configuration())):
        refuse_bare_module(model, "Segmenter")
    with_steps = Bare(2, 2)
    with_steps.preprocess = binderclip.models.Preprocess()
    refuse_bare_module(with_steps, "Segmenter")


def test_a_library_s_module_is_refused_where_one_of_the_user_s_own_goes() -> None:
    # It would take pixels in [0, 1] for normalised ones, and answer.
    module = open_clip.CLIP(**configuration())
    bank = binderclip.models.build(configuration()).text_bank(["a cat", "a dog"])
    with pytest.raises(UsageError, match="ZeroShotPredictor takes an ImageTextModel, and this is an open_clip CLIP"):
        binderclip.models.ZeroShotPredictor(module, bank)
    probe = binderclip.adapt.LinearProbe().fit(np.eye(4, 8), [0, 0, 1, 1])
    with pytest.raises(UsageError, match="HeadPredictor takes an ImageTextModel, and this is an open_clip CLIP"):
        probe.predictor(module)
    refuse_bare_module(Bare(2, 2), "HeadPredictor", own=True)


def test_image_text_modules_are_refused_where_logits_are_wanted() -> None:
    images = torch.rand(2, 3, 16, 16)
    for module, name in ((open_clip.CLIP(**configuration()), "an open_clip"), (transformers_model(), "a transformers")):
        with pytest.raises(UsageError, match=f"an attribution of a text takes an ImageTextModel, and this is {name}"):
            binderclip.explain.Saliency()(module, images, "a cat")
    with pytest.raises(UsageError, match=r"must give float logits .*, not tuple; .* it is model\.predictor\(labels\)"):
        binderclip.robust.PGD(open_clip.CLIP(**configuration()))(images, torch.tensor([0, 1]))
