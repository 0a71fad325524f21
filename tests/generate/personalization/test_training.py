"""ClassDiffusion (p145): Custom Diffusion step for step by transformers' own table, and what the word alone feels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import binderclip
from binderclip.errors import CheckpointError, UsageError
from binderclip.generate import (
    ImageTextPromptEncoder,
    LatentDenoiser,
    PersonalConcept,
    PersonalPromptEncoder,
    PromptEncoder,
    TransformersPromptEncoder,
    personalize,
)
from binderclip.generate.personalization.concept import text_attention
from binderclip.generate.personalization.training import placed

PLAIN: dict[str, Any] = {"sizes": (1.0, 1.0), "flip": False}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def denoiser(make_denoiser: Callable[..., LatentDenoiser]) -> LatentDenoiser:
    return make_denoiser(4)


@pytest.fixture(scope="module", params=["transformers", "contrastive"])
def encoder(request: pytest.FixtureRequest, make_denoiser: Callable[..., LatentDenoiser]) -> PromptEncoder:
    """Both kinds of prompt encoders."""
    if request.param == "contrastive":
        return ImageTextPromptEncoder(binderclip.load("small"))
    text: PromptEncoder = make_denoiser(4).text
    return text


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def trained(denoiser: LatentDenoiser, images: Tensor, **settings: Any) -> PersonalConcept:
    settings = {"steps": 4, "learning_rate": 1e-2, "generator": seeded(), **PLAIN, **settings}
    return personalize(denoiser, images, "dog", word="<mine>", **settings)


def cosine(denoiser: LatentDenoiser, concept: PersonalConcept) -> float:
    text = PersonalPromptEncoder(denoiser.text, "<mine>", concept.vector)
    phrase, target = text.pooled(["a photo of a <mine> dog", "a photo of a dog"])
    return float(functional.cosine_similarity(phrase, target, dim=0))


def test_without_the_loss_it_is_custom_diffusion_step_for_step(denoiser: LatentDenoiser, images: Tensor) -> None:
    concept = trained(denoiser, images, spl_weight=0.0)
    # the same by hand: a row more in transformers' own table, all of it trained, the other rows put back
    text = copy.deepcopy(denoiser.text)
    assert isinstance(text, TransformersPromptEncoder)
    tokenizer, model, unet = text.tokenizer, text.model, copy.deepcopy(denoiser.unet)
    tokenizer.add_tokens(["<mine>"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table, new = model.get_input_embeddings().weight.requires_grad_(True), tokenizer.convert_tokens_to_ids("<mine>")
    with torch.no_grad():
        table[new] = table[tokenizer("dog", add_special_tokens=False).input_ids].mean(0)
    others = table.detach().clone()
    parameters = dict(unet.named_parameters())
    own = [parameters[name].requires_grad_(True) for name in text_attention(denoiser)]
    optimizer = torch.optim.AdamW([*own, table], lr=1e-2, weight_decay=1e-2)
    generator = seeded()
    for figures in concept.history:
        chosen = torch.randint(3, (2,), generator=generator)
        with torch.no_grad():
            latents = denoiser.encode(images[chosen])
        t = torch.randint(0, 1000, (2,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        ids = tokenizer("photo of a <mine> dog", padding="max_length", max_length=16, return_tensors="pt").input_ids
        states = model(ids).last_hidden_state.expand(2, -1, -1)
        arguments = {"latent_size": (8, 8)}
        output = unet(denoiser.schedule.add_noise(latents, noise, t), t, states, cross_attention_kwargs=arguments)
        loss = functional.mse_loss(output.sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            table[:new] = others[:new]
        torch.testing.assert_close(figures["denoising"], float(loss), rtol=1e-5, atol=0)
    torch.testing.assert_close(concept.vector, table[new].detach(), rtol=1e-4, atol=1e-5)
    for name, weights in zip(text_attention(denoiser), own, strict=True):
        torch.testing.assert_close(concept.attention[name], weights.detach(), rtol=1e-4, atol=1e-5)


def test_states_of_a_known_tokens_vector_are_those_of_the_token(encoder: PromptEncoder) -> None:
    (token,) = encoder.tokens("dog")
    text = PersonalPromptEncoder(encoder, "<mine>", encoder.word_vectors(torch.tensor([token]))[0])
    with torch.no_grad():
        expected = encoder.states(["a red dog on a cat", "cat"])
        torch.testing.assert_close(text.states(["a red <mine> on a cat", "cat"]), expected, rtol=1e-4, atol=1e-5)
    assert text.positions("a red <mine> on a cat", "<mine>") == encoder.positions("a red dog on a cat", "dog")


def test_the_phrase_is_the_towers_own_pooled_state_of_its_own_end(encoder: PromptEncoder) -> None:
    text = PersonalPromptEncoder(encoder, "<mine>", torch.zeros(encoder.width))
    sentences = ["a photo of a dog", "a dog on a red cat"]
    with torch.no_grad():
        pooled = text.pooled(sentences)
        if isinstance(encoder, ImageTextPromptEncoder):
            tower, ids = encoder.model.text_tower, encoder.model.tokenize(sentences)
            torch.testing.assert_close(tower.project(pooled), encoder.model.encode_text(sentences, normalize=False))
            assert len(set(ids.position.tolist())) == 2
        else:
            assert isinstance(encoder, TransformersPromptEncoder)
            ids = encoder.tokenizer(sentences, padding=True, return_tensors="pt").input_ids
            torch.testing.assert_close(pooled, encoder.model(ids).pooler_output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("released", [False, True])
def test_the_loss_alone_brings_the_phrase_to_its_class(encoder: PromptEncoder, released: bool) -> None:
    from binderclip.generate.personalization.training import _Preservation

    start = 3 * encoder.word_vectors(torch.tensor(encoder.tokens("cat")[:1]))[0]
    text = PersonalPromptEncoder(encoder, "<mine>", torch.nn.Parameter(start.clone()))
    preservation = _Preservation(text, "dog", released)
    optimizer = torch.optim.Adam([text.vector], lr=0.05)
    first = float(preservation().detach())
    for _ in range(100):
        distance = preservation()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    assert 0 <= float(distance) < min(0.05, first / 4)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_as_released_the_word_is_read_without_its_position_and_before_its_class(encoder: PromptEncoder) -> None:
    vector = encoder.word_vectors(torch.tensor(encoder.tokens("cat")[:1]))[0]
    text = PersonalPromptEncoder(encoder, "<mine>", vector, positioned=False)
    with torch.no_grad():
        dog, red = text.pooled(["a photo of a <mine> dog", "a photo of a <mine> red"], at_word=True)
        torch.testing.assert_close(dog, red)  # what stands behind is never seen
        sentence_dog, sentence_red = text.pooled(["a photo of a <mine> dog", "a photo of a <mine> red"])
        assert not torch.allclose(sentence_dog, sentence_red, atol=1e-3)
        place = 1 + encoder.count("a photo of a")
        if isinstance(encoder, ImageTextPromptEncoder):
            position = encoder.model.text_tower.position_table()[place]
        else:
            position = encoder.model.embeddings.position_embedding.weight[place]  # type: ignore[attr-defined]
        other = PersonalPromptEncoder(encoder, "<mine>", vector - position)
        torch.testing.assert_close(other.pooled(["a photo of a <mine> dog"], at_word=True)[0], dog)


def test_the_loss_keeps_the_phrase_at_its_class_where_the_pictures_draw_it_away(
    denoiser: LatentDenoiser, images: Tensor
) -> None:
    settings = {"steps": 25, "learning_rate": 1e-3, "word_rate": 0.1}
    without, with_loss = (trained(denoiser, images, spl_weight=weight, **settings) for weight in (0.0, 10.0))
    assert cosine(denoiser, with_loss) > cosine(denoiser, without) + 0.02
    # its gradient reaches the vector alone: the first step of keys and values is the same
    one, other = (trained(denoiser, images, spl_weight=weight, steps=1) for weight in (0.0, 10.0))
    assert not torch.equal(one.vector, other.vector)
    for name, weights in one.attention.items():
        assert torch.equal(weights, other.attention[name])


def test_as_released_the_denoising_loss_is_summed_over_channels(denoiser: LatentDenoiser, images: Tensor) -> None:
    stated, released = (trained(denoiser, images, steps=1, released=way) for way in (False, True))
    assert released.history[0]["denoising"] == pytest.approx(4 * stated.history[0]["denoising"], rel=1e-5)


def test_nothing_else_changes_and_the_word_comes_back_from_its_folder(
    denoiser: LatentDenoiser, images: Tensor, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    x, t = torch.randn(1, 4, 8, 8, generator=seeded()), torch.tensor([400])
    plain = denoiser(x, t, ["a dog"])
    concept = trained(denoiser, images)
    personal = concept.apply(denoiser)
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(denoiser(x, t, ["a dog"]), plain)
    again = PersonalConcept.load(concept.save(tmp_path / "mine")).apply(denoiser)
    prediction = personal(x, t, ["a <mine> dog"])
    assert torch.equal(again(x, t, ["a <mine> dog"]), prediction)
    assert not torch.allclose(prediction, personal(x, t, ["a dog"]), atol=1e-4)
    shared = dict(denoiser.unet.named_parameters())
    own = [name for name, value in personal.unet.named_parameters() if value.data_ptr() != shared[name].data_ptr()]
    assert sorted(own) == sorted(text_attention(denoiser))


def test_another_denoiser_and_damaged_folders_are_refused(
    denoiser: LatentDenoiser, make_denoiser: Callable[..., LatentDenoiser], images: Tensor, tmp_path: Path
) -> None:
    concept = trained(denoiser, images, steps=1)
    with pytest.raises(UsageError, match="was learnt with another denoiser"):
        concept.apply(make_denoiser(9))
    with pytest.raises(UsageError, match="knows <mine> already"):
        concept.apply(concept.apply(denoiser))
    folder = concept.save(tmp_path / "mine")
    (folder / "config.json").write_text('{"binderclip": {"kind": "personal-concept"}, "word": 3}')
    with pytest.raises(CheckpointError):
        PersonalConcept.load(folder)
    with pytest.raises(CheckpointError):
        PersonalConcept.load(tmp_path)


def test_stopped_it_keeps_what_is_learnt(denoiser: LatentDenoiser, images: Tensor) -> None:
    def stop(step: Any) -> None:
        if step.number == 2:
            raise KeyboardInterrupt

    concept = trained(denoiser, images, on_step=stop)
    assert (concept.steps, concept.interrupted) == (2, True)
    assert torch.equal(concept.vector, trained(denoiser, images, steps=2).vector)


def test_a_picture_stands_in_its_frame() -> None:
    image = torch.arange(1.0, 17).view(1, 4, 4).repeat(3, 1, 1) / 16
    frame, mask = placed(image, 0.5, 1.0, 0.0)
    assert mask[0].nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert float(frame[:, mask[0] == 0].sub(0.5).abs().max()) == 0
    torch.testing.assert_close(frame[:, mask[0] == 1].mean(), image.mean(), rtol=0.02, atol=0)
    cut, mask = placed(image, 2.0, 0.0, 1.0)
    assert bool(mask.all())
    assert cut.shape == image.shape
    assert abs(float(cut.mean() - image[:, :2, 2:].mean())) < 0.03


def test_what_is_outside_of_the_picture_is_no_loss(denoiser: LatentDenoiser, images: Tensor) -> None:
    concept = trained(denoiser, images, sizes=(0.5, 0.75), flip=True)
    assert all(0 < figures["denoising"] < 10 for figures in concept.history)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"word": "mine"}, "angle brackets"),
        ({"class_name": " "}, "class_name"),
        ({"class_name": "dog a cat a dog on a cat a cat a cat on red dog"}, "is too long"),
        ({"init": "  "}, "init"),
        ({"steps": 0}, "steps"),
        ({"spl_weight": float("nan")}, "spl_weight"),
        ({"sizes": (2.0, 1.0)}, "sizes"),
        ({"images": torch.zeros(0, 3, 16, 16)}, "1 to 1000 pictures"),
        ({"images": torch.full((1, 3, 16, 16), float("nan"))}, "finite"),
    ],
)
def test_wrong_settings_are_refused(
    denoiser: LatentDenoiser, images: Tensor, settings: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"images": images, "class_name": "dog", **settings}
    with pytest.raises(UsageError, match=words):
        personalize(denoiser, given.pop("images"), given.pop("class_name"), **given)
