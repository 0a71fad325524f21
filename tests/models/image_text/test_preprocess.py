"""Preprocess against open_clip's own transform, against Pillow, and against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.models.image_text.preprocess import Preprocess

SIZES = [(50, 40), (40, 51), (32, 32), (17, 90), (300, 211), (20, 20)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray((smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_pil_route_is_open_clips_transform(mode: str, interpolation: str, size: int | tuple[int, int]) -> None:
    if mode == "shortest" and size != 32:
        interpolation = "bicubic"  # open_clip ignores the interpolation there
    config = {
        "size": size, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": interpolation,
        "resize_mode": mode, "fill_color": 7,
    }  # fmt: skip
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    ours = Preprocess.from_open_clip(config)
    images = [picture(*wh, seed=i) for i, wh in enumerate(SIZES)]
    want = torch.stack([theirs(image) for image in images])
    got = ours(images)
    assert got.shape == want.shape
    assert torch.equal(got, want)


def test_round_trip_through_open_clips_configuration() -> None:
    ours = Preprocess((24, 40), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "longest", 9, (1, 2, 3))
    assert Preprocess.from_open_clip(ours.to_open_clip()) == ours
    square = Preprocess((32, 32))
    assert square.to_open_clip()["size"] == 32
    # A model folder of ours is read by open_clip, which must accept every key it knows.
    open_clip.transform.merge_preprocess_dict(PreprocessCfg(), square.to_open_clip())


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_tensor_route_equals_pil_route_up_to_rounding(mode: str, interpolation: str) -> None:
    steps = Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3, interpolation, mode)  # type: ignore[arg-type]
    for i, wh in enumerate(SIZES):
        array = np.array(picture(*wh, seed=i))
        for low, high, bound in ((60, 195, 1.2), (0, 255, 6.0)):
            pixels = array.clip(low, high)
            tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
            difference = (steps(pixels) - steps(tensor)).abs() * 255
            # Pillow rounds after each of its two passes: 0.5 + 0.5 * 1.25 levels. It clips there too, so where the
            # pixels reach black or white, single ones differ by more.
            assert difference.max() <= bound
            assert difference.mean() <= 0.5


def test_tensor_of_the_right_size_is_only_normalised() -> None:
    x = torch.rand(2, 3, 32, 32)
    steps = Preprocess((32, 32))
    want = (x - torch.tensor(steps.mean)[:, None, None]) / torch.tensor(steps.std)[:, None, None]
    torch.testing.assert_close(steps(x), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_gradient_of_the_tensor_route(mode: str) -> None:
    torch.manual_seed(0)
    steps = Preprocess((4, 4), resize_mode=mode)  # type: ignore[arg-type]
    x = (0.4 + 0.2 * torch.rand(1, 3, 7, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(steps, (x,))


def test_linear_ramp_keeps_its_values_under_squash() -> None:
    # Antialiased bilinear halving of a ramp gives the ramp at the new pixel centres, away from the border.
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(1, 3, 32, 32)
    steps = Preprocess((16, 16), (0.0,) * 3, (1.0,) * 3, "bilinear", "squash")
    want = (2 * torch.arange(16) + 0.5) / 31
    torch.testing.assert_close(steps(ramp)[0, 0, 8, 2:-2], want[2:-2], rtol=0, atol=1e-6)


def test_one_or_many_of_any_kind(tmp_path) -> None:
    image = picture(50, 40)
    path = tmp_path / "a.png"
    image.save(path)
    array = np.array(image)
    eight_bit = torch.from_numpy(array).permute(2, 0, 1)
    steps = Preprocess((32, 32))
    want = steps(image)
    assert want.shape == (1, 3, 32, 32)
    for same in (path, str(path), path.read_bytes(), array, eight_bit, [image], array[None], eight_bit[None]):
        assert torch.equal(steps(same), want)
    mixed = steps([path, eight_bit.float() / 255])
    torch.testing.assert_close(mixed[1], mixed[0], rtol=0, atol=0.1)


def test_transparent_pictures_lie_on_the_background() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    steps = Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3, background=(0, 255, 0))
    assert torch.equal(steps(clear)[0, :, 5, 5], torch.tensor([0.0, 1.0, 0.0]))


def test_other_size() -> None:
    steps = Preprocess((32, 32))
    assert steps(picture(50, 40), size=48).shape == (1, 3, 48, 48)
    assert steps(torch.rand(2, 3, 50, 40), size=(16, 24)).shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    "bad", [torch.rand(2, 3, 8, 8) * 255, torch.randn(3, 8, 8) * 3, torch.full((3, 8, 8), torch.nan)]
)
def test_floats_outside_the_range_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        Preprocess((8, 8))(bad)


def test_bad_input_is_named(tmp_path) -> None:
    steps = Preprocess((8, 8))
    with pytest.raises(UsageError, match="empty"):
        steps([])
    with pytest.raises(UsageError, match=r"\(3, H, W\)"):
        steps(torch.rand(2, 4, 8, 8))
    with pytest.raises(DataError, match=r"missing\.png"):
        steps(tmp_path / "missing.png")
    with pytest.raises(UsageError, match="resize_mode"):
        Preprocess(resize_mode="stretch")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="interpolation"):
        Preprocess(interpolation="cubic")  # type: ignore[arg-type]


def test_matches_the_processors_of_transformers() -> None:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    clip = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    siglip = SiglipImageProcessor(size={"height": 32, "width": 32})
    ours = Preprocess((32, 32), crop_rounding="down")
    squash = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, resize_mode="squash")
    for wh in [(50, 40), (40, 64), (300, 210)]:
        array = np.array(picture(*wh)).clip(60, 195)
        for theirs, mine in ((clip, ours), (siglip, squash)):
            want = theirs(Image.fromarray(array), return_tensors="pt")["pixel_values"]
            # Their resize is torchvision's on 8-bit tensors: a grey level of difference, over std.
            mine = replace(mine, interpolation={2: "bilinear", 3: "bicubic"}[int(theirs.resample)])
            assert (mine(array) - want).abs().max() <= 2 / 255 / 0.26


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 32}, r"size must be \(h, w\) in pixels, such as \(32, 32\), not 32"),
        ({"size": 32.0}, r"such as \(224, 224\), not 32.0"),
        ({"size": (32,)}, "size must be"),
        ({"mean": 0.5}, "mean 0.5 must be three finite numbers"),
        ({"std": (1.0, 1.0)}, "std .* must be three finite numbers"),
    ],
)
def test_another_shape_of_a_setting_is_refused_in_words(settings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Preprocess(**settings)


def test_lists_and_arrays_are_the_tuples_of_their_numbers(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("jaxtyping_packages", None):
        pytest.skip("a list does not get past the annotation")
    steps = Preprocess(size=[32, 48], mean=np.full(3, 0.5), std=torch.full((3,), 0.25))
    assert steps == Preprocess(size=(32, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert hash(steps) == hash(Preprocess(size=(32, 48), mean=(0.5,) * 3, std=(0.25,) * 3))
