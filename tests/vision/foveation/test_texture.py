"""Foveated texture (p137, arXiv 1705.10041): against the released program's loop, instance_norm and identities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.vision import BlockCodec, FeatureCodec, FoveatedTexture, PoolingRegions, adain, coral


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_adain_is_instance_norm_with_the_styles_statistics() -> None:
    content, style = drawn(2, 4, 9, 7), drawn(2, 4, 5, 5, seed=1) * 3 - 1
    count = 9 * 7
    # instance_norm divides by the biased variance plus eps.
    factor = (count - 1) / count
    for row in range(2):
        expected = F.instance_norm(
            content[row : row + 1], weight=(style[row].flatten(1).var(1) + 1e-5).sqrt() * factor**0.5,
            bias=style[row].flatten(1).mean(1), eps=1e-5 * factor,
        )  # fmt: skip
        torch.testing.assert_close(adain(content, style)[row : row + 1], expected)


def test_coral_is_the_released_formula() -> None:
    source, target = drawn(1, 3, 8, 8), drawn(1, 3, 6, 5, seed=3)
    target = torch.einsum("ij,bjhw->bihw", drawn(3, 3, seed=4), target)

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        flat = x[0].flatten(1)
        mean, std = flat.mean(1, keepdim=True), flat.std(1, keepdim=True)
        flat = (flat - mean) / std
        u, d, v = torch.svd(flat @ flat.T + torch.eye(3, dtype=torch.float64))
        return flat, u @ d.sqrt().diag() @ v.T, mean, std

    flat, root, _, _ = parts(source)
    _, other, mean, std = parts(target)
    expected = (other @ root.inverse() @ flat * std + mean).reshape(source.shape)
    torch.testing.assert_close(coral(source, target), expected)
    torch.testing.assert_close(coral(source, source), source)


def test_it_is_the_released_loop_over_regions() -> None:
    texture = FoveatedTexture(BlockCodec(2), scale=0.5, windows="overwrite", fovea_deg=1.0)
    images, noise = drawn(1, 3, 48, 48), drawn(1, 3, 48, 48, seed=7) - 0.5
    content, other = texture.codec.encode(images), texture.codec.encode(coral(noise, images))
    regions = PoolingRegions((24, 24), 0.5, fovea_deg=1.0)
    alphas = texture.strength((24, 24)).double()
    result = content.clone()
    for mask, alpha in zip(regions.masks(), alphas, strict=True):
        member = mask > 0.001
        if int(member.sum()) < 2:  # the released loop makes NaN of them; here they stay as they are
            result[:, :, member] = content[:, :, member]
            continue
        own, theirs = content[:, :, member][..., None], other[:, :, member][..., None]
        result[:, :, member] = ((1 - alpha) * own + alpha * adain(theirs, own))[..., 0]
    assert float((result - content).abs().max()) > 0.1
    torch.testing.assert_close(texture.mixed(content, other), result, rtol=1e-6, atol=1e-6)
    expected = texture.codec.decode(result).clamp(0, 1)
    torch.testing.assert_close(texture(images, noise=noise), expected, rtol=1e-6, atol=1e-6)


def test_all_texture_in_one_region_has_its_statistics_and_leaves_the_others() -> None:
    texture = FoveatedTexture(BlockCodec(1), scale=0.5, windows="hard")
    regions = texture.regions((32, 32))
    content, noise = drawn(2, 3, 32, 32), drawn(2, 3, 32, 32, seed=5) ** 3
    chosen = int(regions.pixels.argmax())
    alpha = torch.zeros(len(regions))
    alpha[chosen] = 1
    result = texture.mixed(content, noise, alpha)
    inside = regions.masks()[chosen] > 0
    assert torch.equal(result[:, :, ~inside], content[:, :, ~inside])
    torch.testing.assert_close(result[:, :, inside].mean(-1), content[:, :, inside].mean(-1))
    torch.testing.assert_close(result[:, :, inside].std(-1), content[:, :, inside].std(-1), rtol=1e-4, atol=1e-6)
    assert float((result - content)[:, :, inside].abs().mean()) > 0.1


def test_no_strength_is_the_reference_and_own_features_as_noise_change_nothing() -> None:
    images = drawn(1, 3, 32, 32)
    none = FoveatedTexture(BlockCodec(2), slope=0.0)
    torch.testing.assert_close(none(images), none.reference(images))
    torch.testing.assert_close(none.reference(images), images)
    texture = FoveatedTexture(BlockCodec(2))
    content = texture.codec.encode(images)
    torch.testing.assert_close(texture.mixed(content, content), content)
    torch.testing.assert_close(texture.mixed(content, 3 * content + 1), content, rtol=1e-3, atol=1e-3)


def test_the_fovea_stays_and_texture_grows_outwards() -> None:
    texture = FoveatedTexture(BlockCodec(2), scale=0.5, fovea_deg=2.0)
    images = drawn(4, 3, 128, 128)
    difference = (texture(images, generator=torch.Generator().manual_seed(0)) - images).square().mean((0, 1))
    y, x = torch.meshgrid(torch.arange(128) - 63.5, torch.arange(128) - 63.5, indexing="ij")
    degrees = torch.hypot(x, y) * 26 / 128
    rings = [float(difference[(degrees >= low) & (degrees < high)].mean()) for low, high in ((0, 1), (3, 5), (8, 12))]
    assert rings[0] < 1e-12
    assert rings[0] < rings[1] < rings[2]


def test_a_mirrored_fixation_gives_the_mirrored_picture_and_a_seed_the_same() -> None:
    images, noise = drawn(1, 3, 32, 40), drawn(1, 3, 32, 40, seed=9)
    left, right = (FoveatedTexture(BlockCodec(1), fixation=(x, 0.5)) for x in (0.25, 0.75))
    torch.testing.assert_close(left(images, noise=noise), right(images.flip(3), noise=noise.flip(3)).flip(3))
    twice = [left(images, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*twice)


def test_the_released_networks_have_the_names_of_their_weights() -> None:
    codec = FeatureCodec.adain()
    shapes = {name: tuple(value.shape) for name, value in codec.encoder.state_dict().items() if "weight" in name}
    assert shapes == {
        "0.weight": (3, 3, 1, 1), "2.weight": (64, 3, 3, 3), "5.weight": (64, 64, 3, 3), "9.weight": (128, 64, 3, 3),
        "12.weight": (128, 128, 3, 3), "16.weight": (256, 128, 3, 3), "19.weight": (256, 256, 3, 3),
        "22.weight": (256, 256, 3, 3), "25.weight": (256, 256, 3, 3), "29.weight": (512, 256, 3, 3),
    }  # fmt: skip
    decoder = [name for name in codec.decoder.state_dict() if "weight" in name]
    assert decoder == [f"{n}.weight" for n in (1, 5, 8, 11, 14, 18, 21, 25, 28)]
    with torch.no_grad():
        maps = codec.encode(torch.rand(1, 3, 32, 32))
        assert maps.shape == (1, 512, 4, 4)
        assert codec.decode(maps).shape == (1, 3, 32, 32)


def test_blocks_have_an_exact_inverse_and_are_the_cosine_transform() -> None:
    from scipy.fft import dctn

    codec, images = BlockCodec(4), drawn(2, 3, 8, 12)
    maps = codec.encode(images)
    torch.testing.assert_close(codec.decode(maps), images)
    expected = torch.from_numpy(dctn(images[1, 2, 4:8, 8:12].numpy(), norm="ortho"))
    torch.testing.assert_close(maps[1, 32:48, 1, 2].reshape(4, 4), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FoveatedTexture(slope=float("nan")), "slope"),
        (lambda: FoveatedTexture(scale=3.0), "scale"),
        (lambda: FoveatedTexture()(torch.zeros(1, 1, 8, 8)), r"pictures must be \(B, 3, H, W\)"),
        (lambda: FoveatedTexture()(torch.zeros(1, 3, 8, 8), noise=torch.zeros(1, 3, 8, 4)), "noise must have"),
        (lambda: FoveatedTexture()(torch.zeros(1, 3, 7, 8)), "multiples of 2"),
        (lambda: BlockCodec(0), "side"),
        (lambda: adain(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3)), "same B and C"),
        (lambda: adain(torch.zeros(1, 2, 1), torch.zeros(1, 2, 3)), "two places"),
        (lambda: coral(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3)), "same B and C"),
    ],
)
def test_what_makes_no_sense_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_a_picture_of_one_colour_stays() -> None:
    images = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(FoveatedTexture()(images), images, atol=0.02, rtol=0)
