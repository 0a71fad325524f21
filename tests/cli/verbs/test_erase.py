"""`binderclip erase` and `inpaint` with tiny random pipelines: what stays bit for bit, methods, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import to_tensor
from binderclip.generate import inpaint, load_denoiser
from binderclip.segment.promptable import PromptModel, PromptNetwork

Command = Callable[..., Any]
SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("segmenter") / "tiny"
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval().save(place)
    return place


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 60 x 40 pixels, with `mask.png` beside it."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(60, 190, (40, 60, 3)).astype(np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[10:18, 20:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png"


def values(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_what_a_mask_marks_is_painted_anew_and_all_else_stays(
    command: Command, photo: Path, tiny_inpainter: Path
) -> None:
    mask = photo.with_name("mask.png")
    words = ("erase", photo, "--mask", mask, "--model", tiny_inpainter, "--steps", "2", "--grow", "1")
    document = command(*words, "--json").json()
    before, after, painted = values(photo), values(document["out"]), values(document["mask"]) > 0
    assert bool(painted[9:19, 19:31].all())
    assert int(painted.sum()) == 10 * 12
    assert np.array_equal(after[~painted], before[~painted])
    assert float((after != before).any(2)[painted].mean()) > 0.9
    assert document["changed"] == pytest.approx(float((after != before).any(2)[painted].mean()))
    assert document["seen"] == [13, 2, 37, 26]  # twice the mask's 12 px
    assert Path(document["sheet"]).is_file()
    again = command(*words)  # nothing is replaced, and a seed is a seed
    assert np.array_equal(values("photo-erased-2.png"), after)
    assert "all others are as they were" in again.out
    other = command(*words, "--seed", "1", "--json").json()
    assert not np.array_equal(values(other["out"]), after)


def test_what_is_named_goes_and_what_is_not_there_is_said(command: Command, tmp_path: Path) -> None:
    """A cat before a wall: her face goes, the wall beside her stays; nothing is written where none is seen."""
    from skimage import data

    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    before = values(tmp_path / "cat.png")
    document = command("erase", tmp_path / "cat.png", "--labels", "the cat", "--json").json()
    mask, after = values(document["mask"]) > 0, values(document["out"])
    assert bool(mask[100:180, 150:250].all())
    assert not mask[100:250, 420:].any()
    assert np.array_equal(after[~mask], before[~mask])
    document = command("segment", tmp_path / "cat.png", "--labels", "the cat", "--json").json()
    labels = values(document["label_map"])
    assert bool(mask[labels == labels[140, 200]].all())  # what segment finds of her, grown
    done = command("erase", tmp_path / "cat.png", "--labels", "teapot", "--out", "none.png")
    assert (done.code, "no teapot is seen in" in " ".join(done.err.split())) == (2, True)
    assert not Path("none.png").exists()


def test_without_a_model_a_slope_goes_on_through_what_was_taken_out(command: Command, tmp_path: Path) -> None:
    slope = np.linspace(40, 200, 96)[None, :, None].repeat(64, 0).repeat(3, 2).round().astype(np.uint8)
    picture, mask = slope.copy(), np.zeros((64, 96), np.uint8)
    picture[24:36, 40:54], mask[24:36, 40:54] = (250, 10, 10), 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("erase", tmp_path / "a.png", "--mask", tmp_path / "mask.png")
    assert command(*words, "--json").json()["method"] == "patches"
    document = command(*words, "--method", "fill", "--json").json()
    assert document["method"] == "fill"
    assert np.abs(values(document["out"]).astype(int) - slope).max() <= 3  # neither red nor flat
    refused = command(*words, "--steps", "5")
    assert (refused.code, "--steps is for a model" in " ".join(refused.err.split())) == (2, True)


def test_it_is_inpainting_at_the_models_own_side(command: Command, tmp_path: Path, tiny_inpainter: Path) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    picture.save("tile.png")
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 5:11] = 1
    Image.fromarray((255 * mask[0, 0]).byte().numpy()).save("hole.png")
    words = ("tile.png", "--mask", "hole.png", "--model", tiny_inpainter, "--steps", "3", "--seed", "4", "--json")
    erased = command("erase", *words, "--grow", "0").json()
    drawn = command("inpaint", *words, "--text", "a dog", "--guidance", "1").json()
    denoiser = load_denoiser(tiny_inpainter)
    for document, text in ((erased, None), (drawn, "a dog")):
        generator = torch.Generator().manual_seed(4)
        expected = inpaint(
            denoiser, to_tensor(picture)[None], mask, text, num_inference_steps=3, generator=generator
        )[0]  # fmt: skip
        assert np.array_equal(values(document["out"]), (255 * expected).round().byte().permute(1, 2, 0).numpy())
    assert not np.array_equal(values(erased["out"]), values(drawn["out"]))


def test_a_point_gives_the_mask_that_click_gives(
    command: Command, photo: Path, tiny_inpainter: Path, segmenter: Path
) -> None:
    point = ("--point", "30,20")
    clicked = command("click", photo, *point, "--not", "3,3", "-m", segmenter, "--json").json()
    words = ("--model", tiny_inpainter, "--segmenter", segmenter, "--steps", "1", "--grow", "0", "--json")
    erased = command("erase", photo, *point, "--background-point", "3,3", *words).json()
    assert np.array_equal(values(erased["mask"]), values(clicked["mask"]))


def test_a_model_without_inpainting_channels_takes_every_step_several_times(
    command: Command, photo: Path, tiny_diffusion: Path
) -> None:
    words = ("erase", photo, "--mask", photo.with_name("mask.png"), "--model", tiny_diffusion, "--steps", "2", "--json")
    plain, once, four = (command(*words, *more).json() for more in ((), ("--resamples", "1"), ("--resamples", "4")))
    assert np.array_equal(values(plain["out"]), values(four["out"]))
    assert not np.array_equal(values(plain["out"]), values(once["out"]))
    painted = values(plain["mask"]) > 0
    assert np.array_equal(values(plain["out"])[~painted], values(photo)[~painted])


def test_with_outline_the_rim_stays(command: Command, photo: Path, tiny_inpainter: Path) -> None:
    mask = photo.with_name("mask.png")
    words = ("--mask", mask, "--model", tiny_inpainter, "--method", "outline", "--steps", "1", "--json")
    document = command("erase", photo, *words).json()
    before, after = values(photo), values(document["out"])
    inside = np.zeros((40, 60), bool)
    inside[11:17, 21:29] = True  # the mask is not grown, and its rim of one pixel is what it was
    assert np.array_equal(values(document["mask"]) > 0, inside)
    changed = (after != before).any(2)
    assert not changed[~inside].any()
    assert float(changed[inside].mean()) > 0.9
    thin = np.zeros((40, 60), np.uint8)
    thin[10, 20:30] = 255
    Image.fromarray(thin).save("thin.png")
    done = command(
        "erase", photo, "--mask", "thin.png", "--model", tiny_inpainter, "--method", "outline", "--steps", "1"
    )
    assert (done.code, "too thin for --method outline" in done.err) == (2, True)


def test_bad_calls_are_named(command: Command, photo: Path, tiny_inpainter: Path, tiny_diffusion: Path) -> None:
    Image.new("L", (10, 10), 255).save("other.png")
    Image.new("L", (60, 40), 0).save("empty.png")
    Image.new("L", (60, 40), 255).save("full.png")
    mask = ("--mask", photo.with_name("mask.png"))
    for options, words in [
        ((), "give --labels WORDS, --point x,y on the object, or --mask FILE"),
        ((*mask, "--labels", "cat"), "one of them says what goes"),
        (("--labels", "cat", "--background-point", "3,3"), "--background-point goes with --point"),
        (("--labels", ","), "--labels"),
        ((*mask, "--point", "3,3"), "give --labels WORDS, --point x,y on the object, or --mask FILE"),
        ((*mask, "--background-point", "3,3"), "--background-point goes with --point"),
        (("--point", "60,3"), "point 60,3 is outside the picture of 60 x 40 pixels"),
        (("--mask", "other.png"), "is 10 x 10 px, the picture 60 x 40"),
        (("--mask", "empty.png"), "is empty"),
        (("--mask", "full.png"), "is the whole picture"),
        (("--mask", "none.png"), "there is no such file"),
        ((*mask, "--grow", "512"), "is the whole picture"),
        ((*mask, "--method", "magic"), "is unknown: one of patches, fill, inpaint, clipaway, outline"),
        ((*mask, "--adapter", "x.bin"), "--adapter goes with --method clipaway"),
        ((*mask, "--method", "clipaway"), "needs image attention"),
        ((*mask, "--steps", "0"), "--steps"),
    ]:
        done = command("erase", photo, "--model", tiny_inpainter, *options)
        assert done.code != 0
        assert words in " ".join(done.err.split()), options
    done = command("erase", photo, *mask, "--model", tiny_diffusion, "--method", "clipaway")
    assert "needs a model with inpainting channels" in " ".join(done.err.split())
    assert not list(Path().glob("photo-erased*"))


def test_an_interrupted_download_is_named(command: Command, photo: Path, tiny_inpainter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "model_index.json").write_text((tiny_inpainter / "model_index.json").read_text())
    done = command("inpaint", photo, "--mask", photo.with_name("mask.png"), "--text", "a dog", "--model", folder)
    assert done.code != 0
    assert "was its download interrupted?" in " ".join(done.err.split())


def test_the_object_is_taken_out_of_the_image_prompt(
    command: Command, photo: Path, tiny_inpainter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    denoiser = load_denoiser(tiny_inpainter)
    tables = {
        "image_proj.proj.weight": torch.randn(2 * 24, 384), "image_proj.proj.bias": torch.zeros(48),
        "image_proj.norm.weight": torch.ones(24), "image_proj.norm.bias": torch.zeros(24),
    }  # fmt: skip
    modules = dict(denoiser.unet.named_modules())
    for number, name in enumerate(denoiser.unet.attn_processors):
        if "attn2" not in name:
            continue
        width = modules[name.removesuffix(".processor")].inner_dim
        for part in ("to_k_ip", "to_v_ip"):
            tables[f"ip_adapter.{number}.{part}.weight"] = torch.randn(width, 24)
    save_file(tables, tmp_path / "adapter.safetensors")
    words = ("erase", photo, "--mask", photo.with_name("mask.png"), "--model", tiny_inpainter, "--steps", "2", "--json")
    plain = command(*words).json()
    away = command(*words, "--method", "clipaway", "--adapter", tmp_path / "adapter.safetensors").json()
    painted = values(away["mask"]) > 0
    assert np.array_equal(values(away["out"])[~painted], values(photo)[~painted])
    assert not np.array_equal(values(away["out"]), values(plain["out"]))
    assert json.loads(json.dumps(away))["method"] == "clipaway"


def test_patches_of_the_rest_go_on_at_full_size(command: Command, tmp_path: Path) -> None:
    """Stripes of a picture larger than what a smooth fill sees go on, pixel for pixel; a smooth fill has none."""
    stripes = np.tile(np.repeat([60, 200], 6), 60)[None, :, None].repeat(400, 0).repeat(3, 2).astype(np.uint8)
    picture, mask = stripes.copy(), np.zeros(stripes.shape[:2], np.uint8)
    picture[150:230, 300:400], mask[150:230, 300:400] = (250, 10, 10), 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    errors = {}
    for method in ("patches", "fill"):
        words = ("erase", tmp_path / "a.png", "--mask", tmp_path / "mask.png", "--method", method, "--json")
        document = command(*words).json()
        after, painted = values(document["out"]), values(document["mask"]) > 0
        assert after.shape == stripes.shape
        assert np.array_equal(after[~painted], picture[~painted])
        errors[method] = float(np.abs(after.astype(int) - stripes)[painted].mean())
    assert errors["patches"] < 5
    assert errors["fill"] > 40


def test_a_picture_without_a_whole_patch_says_what_needs_none(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (5000, 1), (90, 120, 40)).save(tmp_path / "thin.png")
    mask = Image.new("L", (5000, 1), 0)
    mask.paste(255, (100, 0, 140, 1))
    mask.save(tmp_path / "mask.png")
    words = ("erase", tmp_path / "thin.png", "--mask", tmp_path / "mask.png", "--out", tmp_path / "out.png")
    done = command(*words)
    assert (done.code, "--method fill needs none" in " ".join(done.err.split())) == (2, True)
    document = command(*words, "--method", "fill", "--json").json()
    assert np.array_equal(values(document["out"]), values(tmp_path / "thin.png"))


def test_transparency_stays_and_goes_on_into_what_was_taken_out(command: Command, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(60, 190, (60, 80, 4)).astype(np.uint8)
    picture[..., 3] = 255
    picture[:, 40:, 3] = 0  # the right half is seen through
    picture[:20, :10, 3] = 100
    mask = np.zeros((60, 80), np.uint8)
    mask[25:35, 10:20] = mask[25:35, 60:70] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for options in ((), ("--method", "fill")):
        document = command("erase", tmp_path / "a.png", "--mask", tmp_path / "mask.png", *options, "--json").json()
        after, painted = values(document["out"]), values(document["mask"]) > 0
        assert after.shape == picture.shape
        assert np.array_equal(after[~painted], picture[~painted])  # colours that are seen through, too
        assert bool((after[25:35, 10:20, 3] == 255).all())
        assert bool((after[25:35, 60:70, 3] == 0).all())


@pytest.mark.parametrize("verb", ["erase", "inpaint"])
def test_what_will_be_coarse_is_said_before_and_a_blur_is_refused(
    command: Command, photo: Path, tiny_inpainter: Path, verb: str
) -> None:
    """What is seen is twice the 10 px of the mask, at 16 px: of a picture three times larger at 1/3.75."""
    text = ("--text", "grass") if verb == "inpaint" else ("--grow", "0")
    given = (*text, "--model", tiny_inpainter, "--steps", "1")
    files = {}
    for times in (1, 3, 10):
        files[times] = photo.with_name(f"photo-{times}.png"), photo.with_name(f"mask-{times}.png")
        for source, file in zip((photo, photo.with_name("mask.png")), files[times], strict=True):
            picture = Image.open(source)
            picture.resize((60 * times, 40 * times), Image.Resampling.NEAREST).save(file)
    said = "px go through the model at 16 px: new content has 1/4 of the picture's detail"
    for times in (1, 3):
        done = command(verb, files[times][0], "--mask", files[times][1], *given)
        assert done.code == 0, done.err
        assert (said in " ".join(done.err.split())) == (times == 3)
        assert ("at 16 px, so at 1/3.8 of the picture's detail" in " ".join(done.out.split())) == (times == 3)
    refused = command(verb, files[10][0], "--mask", files[10][1], *given)
    error = " ".join(refused.err.split())
    assert refused.code == 2
    assert "200 px, which the model sees at 16 px: what it paints would be a blur, at 1/12 of" in error
    assert ("--method patches" in error) == (verb == "erase")
    assert not list(photo.parent.glob("photo-10-*"))
    document = command(verb, files[10][0], "--mask", files[10][1], *given, "--coarse", "--json").json()
    assert document["scale"] == 12.5
    before, after, inside = (values(each) for each in (files[10][0], document["out"], document["mask"]))
    assert np.array_equal(after[inside == 0], before[inside == 0])


def test_without_a_model_no_place_is_too_large(command: Command, photo: Path) -> None:
    mask = photo.with_name("mask.png")
    for method in ("patches", "fill"):
        done = command("erase", photo, "--mask", mask, "--method", method)
        assert done.code == 0, done.err
        assert "detail" not in done.out
        refused = command("erase", photo, "--mask", mask, "--method", method, "--coarse")
        assert (refused.code, "--coarse is for a model" in " ".join(refused.err.split())) == (2, True)


def test_a_large_hole_is_filled_smaller(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.tasks.verbs.erase import run

    monkeypatch.setattr(run, "PATCHED", 5625)
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    mask = np.zeros((200, 300), np.uint8)
    mask[20:170, 60:210] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("erase", tmp_path / "a.png", "--mask", tmp_path / "mask.png", "--grow", "0", "--json")
    document = command(*words).json()
    assert document["seen"] == [0, 0, 300, 200]
    assert document["side"] == 150  # 150 x 150 px become 75 x 75
    after = values(document["out"])
    assert np.array_equal(after[mask == 0], picture[mask == 0])
