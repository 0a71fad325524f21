"""CLIPAway (p026): the projection's closed form, where it acts, the released layer by key, and scale 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.generate import CLIPAway, EmbeddingProjection, LatentDenoiser, inpaint, without_component


def encode(images: Tensor, alpha: Tensor) -> Tensor:
    """Six numbers: the mean colour where alpha is 1, and where it is 0."""
    inside = (images * alpha).mean((2, 3)) / alpha.mean((2, 3)).clamp(min=1e-6)
    outside = (images * (1 - alpha)).mean((2, 3))
    return torch.cat([inside, outside], 1) - 0.3


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:10, 4:10] = 1
    return mask


def test_the_rest_is_orthogonal_and_the_theorem_of_pythagoras_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    b, f = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    rest = without_component(b, f)
    torch.testing.assert_close((rest * f).sum(1), torch.zeros(5, dtype=torch.float64))
    along = (b * f).sum(1) / f.norm(dim=1)
    torch.testing.assert_close(rest.square().sum(1) + along.square(), b.square().sum(1))
    torch.testing.assert_close(without_component(rest, f), rest)
    torch.testing.assert_close(without_component(3 * f, f), torch.zeros_like(f), rtol=0, atol=1e-12)
    torch.testing.assert_close(without_component(b, 0 * f), b)


def test_it_is_projected_in_the_space_of_the_adapter(
    tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor
) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
    remove = CLIPAway(tiny_denoiser, encode, projection=layer)
    object_, background, rest = remove.embeddings(images, mask)
    with torch.no_grad():
        torch.testing.assert_close(object_, layer(encode(images, mask)))
        torch.testing.assert_close(background, layer(encode(images, 1 - mask)))  # the complement of the mask
    torch.testing.assert_close((rest * object_).sum(1), torch.zeros(2), rtol=0, atol=1e-5)
    raw = without_component(encode(images, 1 - mask), encode(images, mask))
    assert not torch.allclose(layer(raw), rest, atol=1e-3)


def test_image_attention_of_scale_zero_and_guidance_of_one_is_plain_inpainting(
    tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor
) -> None:
    remove = CLIPAway(tiny_denoiser, encode, image_scale=0.0, guidance_scale=1.0, dilation=0)
    out = remove(images[:1], mask[:1], num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    plain = inpaint(
        tiny_denoiser, images[:1], mask[:1], num_inference_steps=3, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    torch.testing.assert_close(out, plain)
    full = CLIPAway(tiny_denoiser, encode, dilation=0)
    other = full(images[:1], mask[:1], num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(other, plain, atol=1e-3)


def test_the_image_prompt_is_the_background_without_the_object(
    tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor
) -> None:
    scale = 100.0  # random weights attend but faintly to image tokens
    remove = CLIPAway(tiny_denoiser, encode, guidance_scale=1.0, image_scale=scale, dilation=0)
    object_, background, rest = remove.embeddings(images[:1], mask[:1])

    def painted(embedding: Tensor) -> Tensor:
        tokens = tiny_denoiser.image_tokens(embedding)[0]
        prompt = replace(tiny_denoiser.prompt(None), image_tokens=tokens, image_scale=scale)
        generator = torch.Generator().manual_seed(0)
        return inpaint(tiny_denoiser, images[:1], mask[:1], prompt, num_inference_steps=3, generator=generator)

    out = remove(images[:1], mask[:1], num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, painted(rest))
    for other in (background, object_):
        assert not torch.allclose(out, painted(other), atol=1e-3)
    as_it_is = CLIPAway(tiny_denoiser, encode, guidance_scale=1.0, image_scale=scale, dilation=0, project=False)
    out = as_it_is(images[:1], mask[:1], num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, painted(background))


def test_the_mask_grows_and_pixels_beyond_stay(tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor) -> None:
    out = CLIPAway(tiny_denoiser, encode, dilation=2)(images, mask, num_inference_steps=2)
    changed = (out != images).any(1).any(0)
    assert changed[2:12, 2:12].float().mean() > 0.9
    changed[2:12, 2:12] = False
    assert not changed.any()


@pytest.mark.parametrize(("width", "out_width", "hidden"), [(6, 8, 6), (4, 4, 2), (6, 8, 3)])
def test_the_released_layer_is_read_by_its_keys(tmp_path: Path, width: int, out_width: int, hidden: int) -> None:
    layer = EmbeddingProjection(width, out_width, hidden)
    names = {f"{3 * k + part}.{kind}" for k in range(hidden) for part in (0, 1) for kind in ("weight", "bias")}
    assert set(layer.state_dict()) == names | {f"{3 * hidden}.weight", f"{3 * hidden}.bias"}
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    x = torch.randn(2, width)
    torch.testing.assert_close(EmbeddingProjection.load(tmp_path / "layer.safetensors")(x), layer(x))


def test_the_layer_has_the_papers_widths() -> None:
    shapes = [tuple(value.shape) for key, value in EmbeddingProjection().state_dict().items() if value.ndim == 2]
    assert shapes == [(768, 768)] * 3 + [(1024, 768)] + [(1024, 1024)] * 3


def test_other_files_and_networks_are_refused(
    tmp_path: Path, tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor, make_denoiser: type[LatentDenoiser]
) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no projection layer of CLIPAway"):
        EmbeddingProjection.load(tmp_path / "other.safetensors")
    with pytest.raises(NotSupported, match="no image attention"):
        CLIPAway(make_denoiser(4), encode)(images, mask)
    with pytest.raises(UsageError, match="mask must have shape"):
        CLIPAway(tiny_denoiser, encode)(images, mask[..., :4])
    with pytest.raises(UsageError, match="guidance_scale"):
        CLIPAway(tiny_denoiser, encode, guidance_scale=float("nan"))
