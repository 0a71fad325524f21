"""What the tasks that run a diffusion model do alike, on exact denoisers and tiny random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.generate import GaussianDenoiser, load_denoiser, sample
from binderclip.models import load
from binderclip.tasks.events import Counted, Event, Previewed, Saved, Stopped, StopToken, Warned, listening
from binderclip.tasks.sampling import (
    StepProgress,
    agreement,
    check_scale,
    counted_forwards,
    model_picture,
    noise_generator,
    opened_denoiser,
    picture_of,
    save_pictures,
)


def test_steps_of_several_samplings_are_counted_together_and_offered_as_pictures() -> None:
    denoiser, seen = GaussianDenoiser(torch.zeros(3, 2, 2), torch.ones(12)), list[Event]()
    shown: list[torch.Tensor] = []

    def hear(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Previewed):
            shown.append(torch.stack([to_tensor(picture) for picture in event.render()]))

    progress = StepProgress(6, lambda x0: x0 / 2 + 0.5)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with listening(hear):
        sample(denoiser, x, num_inference_steps=3, hooks=[progress])
        last = sample(denoiser, x, num_inference_steps=3, hooks=[progress])
    counts = [(event.done, event.total, event.begun) for event in seen if isinstance(event, Counted)]
    assert counts == [(step, 6, True) for step in range(1, 7)]
    assert len(shown) == 6
    # The last step of DDIM leads to its own prediction of the clean picture.
    torch.testing.assert_close(shown[-1], (last / 2 + 0.5).clamp(0, 1), atol=0.03, rtol=0)


def test_nothing_is_drawn_for_who_does_not_look_and_a_step_is_where_it_stops() -> None:
    def refuse(x0: torch.Tensor) -> torch.Tensor:
        raise AssertionError("drawn")

    denoiser, stop = GaussianDenoiser(torch.zeros(3, 2, 2), torch.ones(12)), StopToken()
    progress = StepProgress(3, refuse)
    x = torch.zeros(1, 3, 2, 2)
    sample(denoiser, x, num_inference_steps=3, hooks=[progress])

    def hear(event: Event) -> None:
        if isinstance(event, Counted) and event.done == 2:
            stop.stop()

    again = StepProgress(3, None)
    with listening(hear, stop), pytest.raises(Stopped):
        sample(denoiser, x, num_inference_steps=3, hooks=[again])
    assert again.done == 2  # a stop is noticed at the next event


def test_forwards_are_counted_and_said(tiny_diffusion: Path) -> None:
    tiny_denoiser, seen = load_denoiser(tiny_diffusion), list[Event]()
    x = torch.zeros(2, 4, 8, 8)
    with listening(seen.append), counted_forwards(tiny_denoiser, 2, "forward") as count:
        tiny_denoiser.predict(x, 500, ["a", None])
        tiny_denoiser.predict(x, 500, ["a"])
    tiny_denoiser.predict(x, 500, ["a"])  # no longer watched
    assert (count.calls, count.rows) == (2, 6)
    assert [(event.done, event.total) for event in seen if isinstance(event, Counted)] == [(1, 2), (2, 2)]


def test_the_middle_square_goes_in_and_comes_back_in_its_place() -> None:
    rng = np.random.default_rng(0)
    original = Image.fromarray(rng.integers(0, 256, (20, 36, 3)).astype(np.uint8))
    taken = model_picture(original, 10)
    assert taken.box == (8, 0, 28, 20)
    assert taken.cropped
    assert taken.pixels.shape == (1, 3, 10, 10)
    assert taken.in_words() == "36 x 20 px, its middle square resized to 10 x 10"
    before = torch.full((1, 3, 10, 10), 0.5)
    assert np.array_equal(np.asarray(taken.restored(before, before)), np.asarray(original))  # nothing was changed
    edited = before.clone()
    edited[..., :2, :2] = 1.0
    back = np.asarray(taken.restored(edited, before))
    assert (back[:2, 10] > 250).all()  # the first two columns of the square lead over to what lies beside it
    outside = np.ones((20, 36), bool)
    outside[:9, 8:17] = False  # two places of two pixels, one around them, and the slope of bilinear resizing
    assert np.array_equal(back[outside], np.asarray(original)[outside])
    whole = np.asarray(taken.restored(edited))
    assert (whole[10:, 10:26] == 128).all()
    assert np.array_equal(whole[:, :8], np.asarray(original)[:, :8])


def test_a_change_of_colour_comes_back_with_the_pictures_own_detail() -> None:
    rng = np.random.default_rng(0)
    original = Image.fromarray(rng.integers(60, 180, (40, 72, 3)).astype(np.uint8))
    taken = model_picture(original, 10)
    assert taken.scale == 4
    assert torch.equal(taken.square[0], to_tensor(original.crop(taken.box)))
    before = torch.full((1, 3, 10, 10), 0.5)
    back = np.asarray(taken.recoloured(before + 0.2, before)).astype(int)
    values = np.asarray(original).astype(int)
    assert np.abs(back[:, 20:52] - values[:, 20:52] - 51).max() <= 1  # a fifth of 255
    # No seam: over a tenth of the square the change falls to nothing, where the picture goes on, and nowhere else.
    fading = 51 * np.array([0.125, 0.375, 0.625, 0.875])[:, None]
    assert np.abs(back[:, 16:20] - values[:, 16:20] - fading).max() <= 1
    assert np.abs(back[:, 52:56] - values[:, 52:56] - fading[::-1]).max() <= 1
    assert np.array_equal(back[:, :16], values[:, :16])
    assert np.array_equal(back[:, 56:], values[:, 56:])


@pytest.mark.parametrize(
    ("edge", "coarse", "words"), [(47, False, ""), (48, False, "1/3"), (64, False, "1/4"), (65, True, "1/4")]
)
def test_what_is_coarser_than_the_picture_is_said(edge: int, coarse: bool, words: str) -> None:
    seen: list[Event] = []
    with listening(seen.append):
        check_scale(edge, 16, coarse)
    said = [event.message for event in seen if isinstance(event, Warned)]
    assert said == (
        [f"{edge} px go through the model at 16 px: new content has {words} of the picture's detail"] if words else []
    )
    if coarse:
        with pytest.raises(
            UsageError, match=r"are 65 px.*at 1/4 of the picture's detail.*--model, --method fill, or --coarse"
        ):
            check_scale(edge, 16, False, ", --method fill")


def test_a_picture_of_the_right_size_goes_in_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    taken = model_picture(Image.fromarray(pixels), 12)
    assert torch.equal(taken.pixels[0], to_tensor(pixels))
    assert not taken.cropped
    assert taken.in_words() == "12 x 12 px, as it is"
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"cut\.png"):
        model_picture(tmp_path / "cut.png", 12)


def test_pictures_are_written_whole_and_said(tmp_path: Path) -> None:
    values = torch.tensor([[[-1.0, 0.5]], [[0.0, 1.0]], [[2.0, 0.2]]])
    picture = picture_of(values)
    seen: list[Event] = []
    with listening(seen.append):
        save_pictures([picture], [tmp_path / "a.png"])
    assert [event.path.name for event in seen if isinstance(event, Saved)] == ["a.png"]
    with Image.open(tmp_path / "a.png") as file:
        assert np.asarray(file).tolist() == [[[0, 0, 255], [128, 255, 51]]]


def test_agreement_is_the_cosine_of_both_judges() -> None:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "white")]
    texts = ["red", "a blue square", "red"]
    scores = agreement(pictures, texts)
    assert list(scores) == ["small", "small-b"]
    for name, cosines in scores.items():
        model = load(name)
        for picture, text, cosine in zip(pictures, texts, cosines, strict=True):
            image, words = model.encode_image(picture)[0], model.encode_text(text)[0]
            assert cosine == pytest.approx(float(torch.cosine_similarity(image, words, dim=0)), abs=1e-5)


def test_what_is_no_denoiser_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        opened_denoiser(str(tmp_path / "nowhere"), "cpu")
    with pytest.raises(UsageError, match="tpu"):
        opened_denoiser(str(tmp_path), "tpu")


def test_a_seed_is_the_noise(tiny_diffusion: Path) -> None:
    denoiser = opened_denoiser(str(tiny_diffusion), "cpu")
    first, second = (denoiser.noise(1, generator=noise_generator(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, denoiser.noise(1, generator=noise_generator(4)))


def test_the_bundled_denoiser_says_what_it_knows_and_another_does_not(tiny_diffusion: Path) -> None:
    seen: list[Event] = []
    with listening(seen.append):
        opened_denoiser(str(tiny_diffusion), "cpu")
        assert not [event for event in seen if isinstance(event, Warned)]
        opened_denoiser("small-diffusion", "cpu")
    (warning,) = [event for event in seen if isinstance(event, Warned)]
    assert "for photographs name the folder of a Stable Diffusion pipeline" in warning.message
