"""The bundled kind of segmenter, at a tiny size: coordinates, equivariance, gradients, files."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.segment.promptable import (
    ImageState,
    InteractiveSession,
    OracleSegmenter,
    PromptModel,
    Prompts,
    load_promptable,
)
from binderclip.segment.promptable.drawn import CORNERS, DRAWN, PromptTokens, draw


def test_shapes_at_any_picture_size(tiny):
    state = tiny.encode(torch.rand(3, 50, 90))
    prompts = Prompts(torch.rand(5, 2, 2) * 50, torch.ones(5, 2).long())
    found = tiny.predict(state, prompts)
    assert found.logits.shape == (5, 3, 50, 90)
    assert found.scores.shape == (5, 3)
    assert tiny.predict(state, prompts, multimask=False).logits.shape == (5, 1, 50, 90)
    again = Prompts(masks=found.low_res[:, 0])
    assert tiny.predict(state, again, multimask=False).logits.shape == (5, 1, 50, 90)


def test_pixels_become_the_unit_square_in_one_place(tiny):
    """The corners of the picture are 0 and 1 whatever its size, and back."""
    state = tiny.encode(torch.rand(3, 30, 80))
    given = Prompts.of(points=[(0, 0), (80, 30), (20, 7.5)], box=(8, 3, 40, 15))
    tokens = tiny._tokens(state, given)
    expected = torch.tensor([[0.1, 0.1], [0.5, 0.5], [0, 0], [1, 1], [0.25, 0.25]])
    torch.testing.assert_close(tokens.points[0], expected)
    assert tokens.labels[0].tolist() == [*CORNERS, 1, 1, 1]
    torch.testing.assert_close(tokens.points[0, 2:] * torch.tensor([80, 30]), given.points[0])
    assert state.scale == (64 / 80, 64 / 30)


def test_the_same_place_at_another_size_gives_the_same_mask(tiny):
    """The same features said to be of a picture twice and thrice as large, and prompts with it."""
    state = tiny.encode(torch.rand(3, 64, 64))
    large = ImageState(state.features, (128, 192), (0.5, 1 / 3))
    here = tiny.predict(state, Prompts.of(points=[(20, 31)], box=(5, 6, 40, 50)))
    there = tiny.predict(large, Prompts.of(points=[(60, 62)], box=(15, 12, 120, 100)))
    torch.testing.assert_close(here.low_res, there.low_res, atol=1e-5, rtol=1e-5)
    assert there.logits.shape[2:] == (128, 192)


def test_prompts_of_a_batch_are_independent_and_padding_is_nothing(tiny):
    state = tiny.encode(torch.rand(3, 64, 64))
    one = tiny.predict(state, Prompts.of(points=[(10, 20)]))
    points = torch.tensor([[[10.0, 20], [50, 60]], [[30, 30], [40, 50]]])
    both = tiny.predict(state, Prompts(points, torch.tensor([[1, -1], [1, 0]])))
    torch.testing.assert_close(both.logits[0], one.logits[0], atol=1e-4, rtol=1e-4)


def test_gradients_reach_points_and_boxes(tiny):
    state = tiny.encode(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)))
    # Not between cells of any grid: bilinear sampling has a kink there, and a slope of its own to either side.
    points = torch.tensor([[[20.7, 29.3]]], requires_grad=True)
    boxes = torch.tensor([[8.0, 9, 50, 40]], requires_grad=True)
    found = tiny.predict(state, Prompts(points, torch.ones(1, 1).long(), boxes), multimask=False)
    found.logits.sum().backward()
    numeric = []
    for delta in (0.01, -0.01):
        moved = Prompts(points.detach() + torch.tensor([delta, 0]), torch.ones(1, 1).long(), boxes.detach())
        numeric.append(float(tiny.predict(state, moved, multimask=False).logits.detach().double().sum()))
    slope = (numeric[0] - numeric[1]) / 0.02
    assert float(points.grad[0, 0, 0]) == pytest.approx(slope, rel=0.05, abs=abs(slope) * 0.05 + 0.5)
    assert bool((boxes.grad != 0).all())


def test_drawn_maps_say_what_they_should():
    """On keys that are constant in each half of the picture, likeness is 1 in the half that was clicked on."""
    keys = torch.zeros(1, 2, 8, 8)
    keys[:, 0, :, :4], keys[:, 1, :, 4:] = 1, 1
    points = torch.tensor([[[0.2, 0.5], [0.8, 0.5]]])
    maps = draw(keys, PromptTokens(points, torch.tensor([[1, 0]])))
    assert maps.shape == (1, DRAWN, 8, 8)
    inside, outside = maps[0, 5], maps[0, 6]
    assert inside[:, :4].amin() == 1
    assert inside[:, 4:].amax() == 0
    torch.testing.assert_close(outside, 1 - inside)
    nearest = maps[0, 0].flatten().argmax()
    assert divmod(int(nearest), 8)[1] == 1
    box = draw(keys, PromptTokens(torch.tensor([[[0.0, 0.0], [0.5, 1.0]]]), torch.tensor([list(CORNERS)])))
    assert box[0, 4, 3, 2] > 0.9
    assert box[0, 4, 3, 6] < 0.1
    torch.testing.assert_close(box[0, 7, :, :3], torch.ones(8, 3), atol=0.01, rtol=0)


def test_drawing_mirrors_with_the_picture():
    keys = torch.nn.functional.normalize(torch.randn(2, 4, 8, 8), dim=1)
    points, labels = torch.rand(2, 3, 2), torch.tensor([[1, 0, -1], [2, 3, 1]])
    points[1, 0], points[1, 1] = torch.tensor([0.2, 0.1]), torch.tensor([0.7, 0.8])
    mirrored = torch.stack([1 - points[..., 0], points[..., 1]], -1)
    # The corners of a mirrored box change sides.
    x = mirrored[1, :2, 0].clone()
    mirrored[1, 0, 0], mirrored[1, 1, 0] = x[1], x[0]
    plain = draw(keys, PromptTokens(points, labels))
    other = draw(keys.flip(-1), PromptTokens(mirrored, labels))
    torch.testing.assert_close(other.flip(-1), plain, atol=1e-5, rtol=1e-5)


def test_an_oracle_pipeline_mirrors_with_the_picture(blobs):
    """A click on the mirrored picture at the mirrored place gives the mirrored mask."""
    image = torch.rand(3, 40, 60)
    plain = InteractiveSession(OracleSegmenter(blobs), image).click(12.5, 9.5)
    other = InteractiveSession(OracleSegmenter(blobs.flip(-1)), image.flip(-1)).click(60 - 12.5, 9.5)
    assert torch.equal(other.flip(-1), plain)
    assert torch.equal(plain, blobs[0])


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("int8", 0.3)])
def test_a_folder_gives_the_same_masks(tiny, tmp_path, dtype, close):
    tiny.save(tmp_path / "model", dtype=dtype)
    again = load_promptable(tmp_path)
    assert isinstance(again, PromptModel)
    assert again.name == "tiny"
    image, prompts = torch.rand(3, 64, 64), Prompts.of(points=[(10, 20)])
    logits = [m.predict(m.encode(image), prompts).logits.detach() for m in (tiny, again)]
    assert float((logits[0] - logits[1]).abs().max()) <= close * float(logits[0].abs().max().clamp(min=1))


def test_errors_say_what_would_be_right(tiny, tmp_path, blobs):
    with pytest.raises(UsageError, match="bundled"):
        load_promptable("small-sma")
    with pytest.raises(CheckpointError, match="promptable"):
        load_promptable(tmp_path)
    with pytest.raises(UsageError, match="one picture"):
        tiny.encode(torch.rand(2, 3, 8, 8))
    with pytest.raises(UsageError, match="another segmenter"):
        tiny.predict(OracleSegmenter(blobs).encode(torch.rand(3, 40, 60)), Prompts.of(points=[(1, 1)]))
