"""Alpha-CLIP (p075): what the alpha channel changes and what it keeps, masks, groups, and that a folder opens again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models import AlphaCLIP, add_alpha_channel, box_alpha, build, load, point_alpha
from binderclip.models.layers.alpha import AlphaConv2d, AlphaConv2dSame, put_alpha, with_alpha
from binderclip.similarity.geometry import Cosine

CONFIG = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "width": 32, "heads": 2, "layers": 1, "context_length": 16, "vocab_size": 8000, "hf_tokenizer_name": "own"
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build(CONFIG, tokenizer=load("small").tokenizer, preprocess={"resize_mode": "longest", "fill_color": 255})


@pytest.fixture
def trained(tiny) -> AlphaCLIP:
    model = AlphaCLIP(tiny)
    with torch.no_grad():
        model.conv.alpha_weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.2)
    return model


def test_at_the_start_nothing_changes_for_any_alpha(tiny) -> None:
    model, images = AlphaCLIP(tiny), torch.rand(3, 3, 32, 32)
    expected = tiny.encode_image(images)
    for alpha in (None, torch.rand(3, 1, 32, 32), torch.zeros(1, 1, 32, 32)):
        assert torch.equal(model.encode_image(images, alpha), expected)
    assert model.model is not tiny
    assert not hasattr(tiny.backbone.visual.conv1, "alpha_weight")


def test_the_bundled_model_has_a_place_for_it_too() -> None:
    small = load("small")
    model, images = AlphaCLIP(small), torch.rand(2, 3, 64, 64)
    assert isinstance(model.conv, AlphaConv2dSame)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images, torch.rand(2, 1, 64, 64)), small.encode_image(images))
        model.conv.alpha_weight.add_(0.1)
        assert not torch.equal(model.encode_image(images), small.encode_image(images))


def test_the_patch_layer_is_linear_in_alpha(trained: AlphaCLIP) -> None:
    conv, x = trained.conv, torch.rand(2, 3, 32, 32)
    first, second = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)

    def layer(alpha: torch.Tensor | None) -> torch.Tensor:
        with with_alpha(alpha):
            return conv(x)

    expected = nn.functional.conv2d(first - second, conv.alpha_weight, stride=8)
    torch.testing.assert_close(layer(first) - layer(second), expected, rtol=1e-4, atol=1e-5)
    # nothing said is foreground everywhere, not zeros
    torch.testing.assert_close(layer(None), layer(torch.full((1, 1, 32, 32), 0.5 / 0.26)))


@pytest.mark.parametrize("side", [9, 10, 16])
def test_tensorflows_padding_is_that_of_a_convolution_over_four_channels(side: int) -> None:
    from timm.layers import Conv2dSame

    torch.manual_seed(0)
    tower = nn.Sequential(Conv2dSame(3, 5, 3, stride=2))
    put_alpha(tower)
    tower[0].alpha_weight.data.normal_()
    whole = Conv2dSame(4, 5, 3, stride=2)
    whole.load_state_dict(
        {"weight": torch.cat([tower[0].weight, tower[0].alpha_weight], 1).detach(), "bias": tower[0].bias.detach()}
    )
    x, alpha = torch.rand(2, 3, side, side), torch.rand(2, 1, side, side)
    with with_alpha(alpha):
        torch.testing.assert_close(tower(x), whole(torch.cat([x, alpha], 1)), rtol=1e-5, atol=1e-6)


def test_masks_travel_with_padded_pictures_and_are_zero_outside(trained: AlphaCLIP) -> None:
    """A wide picture is padded above and below; a mask of ones is then foreground in the middle alone."""
    fitted = trained._fitted(torch.ones(1, 1, 16, 32), torch.zeros(1, 3, 16, 32))
    assert fitted.shape == (1, 1, 32, 32)
    torch.testing.assert_close(fitted[0, 0, 8:24], torch.full((16, 32), 0.5 / 0.26))
    torch.testing.assert_close(fitted[0, 0, :8], torch.full((8, 32), -0.5 / 0.26))


def test_gradients_reach_the_channel_and_the_text_tower_stays(tiny) -> None:
    model = AlphaCLIP(tiny)
    groups = model.groups(1e-3)
    assert [g["lr"] for g in groups] == pytest.approx([1e-3, 1e-5, 1e-5])
    optimizer = torch.optim.AdamW(groups)
    texts = model.encode_text(["a cat", "a dog"]).detach()
    before = {name: value.clone() for name, value in model.model.backbone.state_dict().items()}
    for _ in range(2):
        loss = (Cosine()(model.encode_image(torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)), texts)).sum()
        loss.backward()
        optimizer.step()
    after = model.model.backbone.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert all(value == 0 for name, value in moved.items() if not name.startswith("visual."))
    assert moved["visual.conv1.alpha_weight"] > 50 * moved["visual.conv1.weight"] > 0
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.model.backbone.visual.parameters()}


def test_a_plain_model_lacks_one_tensor_and_a_saved_one_opens(tiny, trained: AlphaCLIP, tmp_path: Path) -> None:
    lacking = trained.model.backbone.load_state_dict(tiny.backbone.state_dict(), strict=False)
    assert (lacking.missing_keys, lacking.unexpected_keys) == (["visual.conv1.alpha_weight"], [])
    folder = trained.model.save(tmp_path / "alpha")
    opened, images, alpha = AlphaCLIP(load(folder)), torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    assert isinstance(opened.conv, AlphaConv2d)
    assert torch.equal(opened.encode_image(images, alpha), trained.encode_image(images, alpha))
    assert opened.model.card["history"][-1] == "alpha channel added"


def test_boxes_and_points() -> None:
    masks = box_alpha([[1, 0, 3, 2], [0, 0, 4, 3]], (3, 4))
    assert masks.shape == (2, 1, 3, 4)
    assert masks[0, 0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert bool((masks[1] == 1).all())
    spot = point_alpha([[1.5, 0.5]], (3, 4), radius=2.0)[0, 0]
    assert float(spot[0, 1]) == 1.0
    assert float(spot[2, 3]) == pytest.approx(float(torch.tensor(-8 / 8).exp()))


def test_what_is_wrong_is_said(tiny, trained: AlphaCLIP) -> None:
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(UsageError, match=r"alpha must be \(B or 1, 1, 32, 32\), got \(2, 1, 16, 16\)"):
        trained.encode_image(images, torch.ones(2, 1, 16, 16))
    with pytest.raises(UsageError, match=r"alpha must lie in \[0, 1\], got 0 to 255"):
        trained.encode_image(images, torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 1, 32, 32))
    with pytest.raises(UsageError, match="has an alpha channel already"):
        add_alpha_channel(trained.model)
    with pytest.raises(UsageError, match="covers no pixel of 4 x 3"):
        box_alpha([[2, 2, 2, 3]], (3, 4))
    with pytest.raises(UsageError, match="radius must be above 0"):
        point_alpha([[0, 0]], (3, 4), radius=0)
    with pytest.raises(NotSupported, match="no convolution over three channels"):
        put_alpha(nn.Linear(3, 3))
