"""Learned prompts against the text features of the strings they begin as, for every kind of text tower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, PromptContext, load
from binderclip.models.layers.freezing import frozen
from binderclip.models.text import prompts
from binderclip.models.text.prompts import trimmed, words_of

NAMES = ["cat", "red apple", "dogs in the tree"]


def variant(wordpiece: Path, **text) -> ImageTextModel:
    """A tiny open_clip model with another way to read a sentence."""
    from binderclip.models import build

    sizes = {"context_length": 12, "vocab_size": 60, "width": 64, "heads": 2, "layers": 2}
    reading = {"hf_tokenizer_name": "own", "pool_type": "eos", "eos_id": 3, "no_causal_mask": True}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    torch.manual_seed(4)
    return build(
        {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": {**sizes, **reading, **text}},
        name="tiny",
        tokenizer=wordpiece,
    )


KINDS = [
    "clip",
    "siglip",
    "hf-clip",
    "hf-siglip",
    "first",
    "last",
    "causal eos",
]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> ImageTextModel:
    kind = request.param
    folder = {
        "clip": "clip_folder",
        "siglip": "siglip_folder",
        "hf-clip": "hf_clip_folder",
        "hf-siglip": "hf_siglip_folder",
    }.get(kind)
    if folder is not None:
        path = request.getfixturevalue(folder)
        loaded = load(f"hf:{path}" if kind.startswith("hf") else str(path))
    else:
        changes = {"causal eos": {"no_causal_mask": False}}.get(kind, {"pool_type": kind})
        loaded = variant(request.getfixturevalue("wordpiece"), **changes)
    return shaken(loaded)


def shaken(model: ImageTextModel) -> ImageTextModel:
    """Every weight moved away from its initialisation, so that a forgotten position or norm shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.text_tower.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def test_words_as_context_are_the_sentence(model: ImageTextModel) -> None:
    ours = PromptContext(model, NAMES, n_ctx=4, init="a photo of a")()
    theirs = model.encode_text([f"a photo of a {name}." for name in NAMES])
    assert ours.shape == (1, 3, model.embed_dim)
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("position", "sentence"), [("middle", "a photo {} of a."), ("front", "{} a photo of a.")])
def test_the_name_stands_where_it_is_asked_for(model: ImageTextModel, position: str, sentence: str) -> None:
    prompt = PromptContext(model, NAMES, n_ctx=4, init="a photo of a", position=position)  # type: ignore[arg-type]
    theirs = model.encode_text([sentence.format(name) for name in NAMES])
    torch.testing.assert_close(prompt()[0], theirs, rtol=1e-4, atol=1e-5)


def test_prompts_stand_side_by_side_and_do_not_touch_each_other(model: ImageTextModel) -> None:
    both = PromptContext(model, NAMES, n_ctx=2, n_prompts=2, init=["a photo", "the drawing"])
    single = [PromptContext(model, NAMES, n_ctx=2, init=text)() for text in ("a photo", "the drawing")]
    torch.testing.assert_close(both(), torch.cat(single), rtol=1e-4, atol=1e-5)
    own = PromptContext(model, NAMES, n_ctx=2, n_prompts=2, init=["a photo", "the drawing"], class_specific=True)
    assert own.weight.shape == (2, 3, 2, model.text_tower.width)
    torch.testing.assert_close(own(), both(), rtol=1e-4, atol=1e-5)
    row = torch.autograd.grad(own()[1, 2].square().sum(), own.weight)[0]
    assert row[1, 2].abs().max() > 0
    row[1, 2] = 0
    assert row.abs().max() == 0


def test_the_gradient_is_that_of_the_words(model: ImageTextModel) -> None:
    prompt = PromptContext(model, NAMES[:1], n_ctx=2, init="a photo")
    with frozen(model):
        gradient = torch.autograd.grad(prompt()[0, 0, 0], prompt.weight)[0]
        base, direction, step = prompt.weight.detach().clone(), torch.randn_like(prompt.weight), 1e-3
        values = []
        for sign in (1, -1):
            prompt.load((base + sign * step * direction) * prompt.unit)
            values.append(prompt()[0, 0, 0].item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(
        float((gradient * direction).sum()), rel=0.05, abs=0.02
    )


def test_more_prompts_than_fit_are_recomputed_with_the_same_result(
    model: ImageTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PromptContext(model, NAMES, n_ctx=2, n_prompts=2, generator=torch.Generator().manual_seed(0))

    def both() -> tuple[Tensor, Tensor]:
        features = prompt()
        return features.detach(), torch.autograd.grad(features.square().sum(), prompt.weight)[0]

    whole = both()
    monkeypatch.setattr(prompts, "AT_ONCE", 2)
    for a, b in zip(whole, both(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_trimming_is_exact_or_left_alone(model: ImageTextModel) -> None:
    tokens, tower = model.tokenize(NAMES), model.text_tower
    short = trimmed(tower, tokens)
    seen = tower.causal and tower.pooling not in ("last", "appended")
    assert short.ids.shape[1] == (int(tokens.mask.sum(1).max()) if seen else tokens.ids.shape[1])
    features = tower.project(tower.pool(tower.run(tower.embed(short))))
    torch.testing.assert_close(features, model.encode_text(NAMES), rtol=1e-4, atol=1e-5)


def test_a_word_fills_the_last_places_and_units_are_those_of_clip(clip_folder: Path) -> None:
    model = load(str(clip_folder))
    prompt = PromptContext(model, ["cat"], n_ctx=5, n_prompts=2, init="a photo")
    word = model.text_tower.embed_tokens(words_of(model, "a photo")[None])[0]
    torch.testing.assert_close(prompt.context[0, 3:], word)
    assert prompt.context[0, :3].abs().max() == 0
    drawn = PromptContext(model, ["cat"], n_ctx=8, n_prompts=8, generator=torch.Generator().manual_seed(0))
    assert drawn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    table = model.text_tower.lookup(torch.arange(model.text_tower.vocab_size)[None])
    assert drawn.context.std().item() == pytest.approx(table.std().item(), rel=0.1)
    assert not torch.equal(drawn.weight[0], drawn.weight[1])
    assert [name for name, _ in prompt.named_parameters()] == ["weight"]


def test_a_context_moves_to_other_names(clip_folder: Path) -> None:
    model = load(str(clip_folder))
    learned = PromptContext(model, NAMES, n_ctx=3, init="a drawing of").context.detach()
    other = PromptContext(model, ["blue_car"], n_ctx=3).load(learned)
    torch.testing.assert_close(other()[0], model.encode_text(["a drawing of blue car."]), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"shape \(1, 3, 64\), this one needs \(1, 2, 64\)"):
        PromptContext(model, ["car"], n_ctx=2).load(learned)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_ctx": 9}, r"n_ctx=9 does not fit: with 'red apple' the prompt has 14 .* takes 12; use n_ctx=7 or less"),
        ({"n_ctx": 0}, "at least 1, not 0 and 1"),
        ({"n_ctx": 2, "init": "a photo of a"}, "has 4 tokens, which do not fit n_ctx=2: use n_ctx=4"),
        ({"init": ["a", "the"]}, "init holds 2 texts for n_prompts=1"),
        ({"position": "behind"}, "position must be one of end, middle, front, got 'behind'"),
        ({"class_names": "cat"}, "not the single text 'cat'"),
        ({"class_names": []}, "at least one name"),
    ],
)
def test_what_cannot_be_is_named(clip_folder: Path, options: dict, words: str) -> None:
    names = options.pop("class_names", ["cat", "red apple"])
    with pytest.raises(UsageError, match=words):
        PromptContext(load(str(clip_folder)), names, **options)
