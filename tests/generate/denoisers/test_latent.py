"""The denoiser over latents: conditions in one batch, attention in the open, image tokens, what is known, words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate import AttentionSite, AttentionStore, LatentDenoiser, Prompt, sample

TIMES = torch.tensor([500, 500])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_one_batch_for_several_conditions_equals_a_forward_for_each(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    tokens = tiny_denoiser.image_tokens(torch.ones(1, 6))[0]
    image = replace(tiny_denoiser.prompt("a dog"), image_tokens=tokens)
    together = tiny_denoiser.predict(x, 500, [None, "a cat", image])
    for condition, prediction in zip([None, "a cat", image], together, strict=True):
        torch.testing.assert_close(prediction, tiny_denoiser(x, TIMES, [condition]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)


def test_image_tokens_of_scale_zero_change_nothing(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    prompt = tiny_denoiser.prompt("a dog")
    tokens = tiny_denoiser.image_tokens(torch.ones(1, 6))[0]
    plain = tiny_denoiser(x, TIMES, [prompt])
    torch.testing.assert_close(tiny_denoiser(x, TIMES, [replace(prompt, image_tokens=tokens, image_scale=0.0)]), plain)
    assert not torch.allclose(tiny_denoiser(x, TIMES, [replace(prompt, image_tokens=tokens)]), plain, atol=1e-4)


def test_image_attention_is_that_of_diffusers_ip_adapter(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

    prompt = tiny_denoiser.prompt("a dog")
    tokens = tiny_denoiser.image_tokens(torch.ones(1, 6))
    ours = tiny_denoiser(x, TIMES, [replace(prompt, image_tokens=tokens[0], image_scale=0.7)])
    unet, processors = tiny_denoiser.unet, {}
    for name, own in unet.attn_processors.items():
        processors[name] = AttnProcessor2_0()
        if own.has_image:
            processors[name] = IPAdapterAttnProcessor2_0(own.to_k_ip[0].out_features, 24, num_tokens=(4,), scale=0.7)
            processors[name].load_state_dict(own.state_dict())
    unet.set_attn_processor(processors)
    states = (prompt.keys[None].expand(2, -1, -1), [tokens[:, None].expand(2, -1, -1, -1)])
    known, mask = tiny_denoiser._known(x)
    state = torch.cat([x, mask, known], 1)
    # the stock network hands (text, image) states to every cross-attention once an image projection is set
    unet.encoder_hid_proj = lambda embeddings: embeddings
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    stock = unet(state, TIMES, states[0], added_cond_kwargs={"image_embeds": states[1]}).sample
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def test_values_of_their_own_act_on_values_alone(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    dog, cat = tiny_denoiser.prompt("a dog"), tiny_denoiser.prompt("a cat")
    mixed = Prompt("mixed", dog.keys, cat.values)
    store, mixed_store = AttentionStore(), AttentionStore()
    tiny_denoiser.controlled(store)(x, TIMES, [dog])
    output = tiny_denoiser.controlled(mixed_store)(x, TIMES, [mixed])
    first = min(key for key in store.maps if key[0] == "text")
    torch.testing.assert_close(mixed_store.maps[first], store.maps[first])  # equal keys before anything differs
    assert not torch.allclose(output, tiny_denoiser(x, TIMES, [dog]), atol=1e-4)
    torch.testing.assert_close(
        tiny_denoiser(x, TIMES, [Prompt("same", dog.keys, dog.keys.clone())]), tiny_denoiser(x, TIMES, [dog])
    )


def test_attention_is_a_distribution_that_a_control_may_change(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    sites: list[AttentionSite] = []

    def first_word(probabilities: Tensor, site: AttentionSite) -> Tensor:
        sites.append(site)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
        if site.kind == "self":
            return probabilities
        out = torch.zeros_like(probabilities)
        out[..., 0] = 1
        return out

    changed = tiny_denoiser.controlled(first_word)(x, TIMES, ["a dog"])
    first = tiny_denoiser.prompt("a dog").values[:1].expand(16, -1)
    torch.testing.assert_close(changed, tiny_denoiser(x, TIMES, [Prompt("first", first, first)]), rtol=1e-4, atol=1e-5)
    assert {(site.kind, site.size) for site in sites} == {
        ("self", (8, 8)),
        ("text", (8, 8)),
        ("self", (4, 4)),
        ("text", (4, 4)),
    }
    assert [site.layer for site in sites if site.kind == "text"] == list(range(len(sites) // 2))
    assert tiny_denoiser.control is None


def test_grids_of_attention_keep_the_aspect_of_the_picture(tiny_denoiser: LatentDenoiser) -> None:
    store = AttentionStore()
    tiny_denoiser.controlled(store)(torch.randn(2, 4, 8, 24), TIMES, ["a dog"])
    assert store.average("text", (8, 24), "a dog").shape == (2, 8, 24, 16)
    with pytest.raises(NotSupported, match=r"no text attention of size \(8, 8\)"):
        store.average("text", (8, 8), "a dog")


def test_gradients_reach_latents_and_states_of_words(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    states = tiny_denoiser.prompt("a dog").keys.clone().requires_grad_()
    state = x.clone().requires_grad_()
    tiny_denoiser(state, TIMES, [Prompt("free", states, states)]).square().sum().backward()
    for gradient in (states.grad, state.grad):
        assert gradient is not None
        assert bool(gradient.abs().sum() > 0)


def test_what_is_known_enters_and_a_full_mask_means_nothing_is(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    images, mask = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    torch.testing.assert_close(
        tiny_denoiser.inpainting(images, mask)(x, TIMES), tiny_denoiser(x, TIMES), rtol=1e-4, atol=1e-5
    )
    mask[..., :8] = 0
    assert not torch.allclose(tiny_denoiser.inpainting(images, mask)(x, TIMES), tiny_denoiser(x, TIMES), atol=1e-4)
    assert tiny_denoiser.known is None


def test_words_are_found_as_words_with_all_their_tokens(tiny_denoiser: LatentDenoiser) -> None:
    assert tiny_denoiser.text.positions("a dog on a cat", "cat") == [5]
    assert tiny_denoiser.text.positions("A Dog", "dog") == [2]
    assert tiny_denoiser.text.positions("cats a cat", "cat") != tiny_denoiser.text.positions("cats a cat", "cats")
    assert tiny_denoiser.text.positions("a grass dog", "grass dog") == list(range(2, 8))  # grass is five letters here
    with pytest.raises(UsageError, match="has no word 'bird'"):
        tiny_denoiser.text.positions("a dog", "bird")
    with pytest.raises(UsageError, match="word is empty"):
        tiny_denoiser.text.positions("a dog", " ")
    with pytest.raises(UsageError, match="beyond the 14 tokens"):
        tiny_denoiser.text.positions("grass grass grass dog", "dog")


def test_wrong_settings_are_refused(
    tiny_denoiser: LatentDenoiser, make_denoiser: Callable[..., LatentDenoiser], x: Tensor
) -> None:
    with pytest.raises(UsageError, match="a text, a Prompt or None, got int"):
        tiny_denoiser(x, TIMES, [3])
    with pytest.raises(UsageError, match="multiples of 4 px"):
        tiny_denoiser.noise(1, (18, 16))
    with pytest.raises(UsageError, match="sides must be multiples of 2"):
        tiny_denoiser.encode(torch.rand(1, 3, 15, 16))
    with pytest.raises(UsageError, match="mask has shape"):
        tiny_denoiser.inpainting(torch.rand(1, 3, 16, 16), torch.ones(1, 1, 8, 8))
    with pytest.raises(UsageError, match="reads 7 channels"):
        make_denoiser(7)
    plain = make_denoiser(4)
    with pytest.raises(NotSupported, match="no image attention"):
        plain.image_tokens(torch.ones(1, 6))
    with pytest.raises(NotSupported, match="needs 9 input channels"):
        plain.inpainting(torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16))
    assert sample(plain, x, "a dog", num_inference_steps=2).shape == x.shape


def test_latents_and_pictures_are_differentiable_and_bounded(tiny_denoiser: LatentDenoiser) -> None:
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    latents = tiny_denoiser.encode(images)
    picture = tiny_denoiser.decode(latents)
    assert (latents.shape, picture.shape) == ((1, 4, 8, 8), images.shape)
    assert 0 <= float(picture.detach().min()) <= float(picture.detach().max()) <= 1
    picture.sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


def test_what_is_remembered_moves_with_the_network(tiny_denoiser: LatentDenoiser, x: Tensor) -> None:
    single = tiny_denoiser(x, TIMES, ["a dog"])
    double = tiny_denoiser.double()(x.double(), TIMES, ["a dog"])
    assert tiny_denoiser.prompt("a dog").keys.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


def test_denoisers_of_the_fixture_share_no_parameter(make_denoiser: Callable[[int], LatentDenoiser]) -> None:
    # one that a test turns to double would turn the networks of every test after it
    first, second = make_denoiser(9), make_denoiser(9)
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}
