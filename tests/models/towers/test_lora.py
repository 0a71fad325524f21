"""Low-rank adapters against weights changed by hand, for every kind of tower."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, Preprocess, build, load, lora_
from binderclip.models.image_text.encoder import PictureModel
from binderclip.models.layers.freezing import frozen
from binderclip.models.layers.lora import LoRA, LowRank, adapted_blocks, first_block


def around(case: Any) -> PictureModel:
    """A model of one image tower around a backbone."""
    return PictureModel(case.module, name=case.name, preprocess=Preprocess((32, 32)), card=None)


def fill(lora: LoRA, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    lora.load_vector(0.3 * torch.randn(lora.vector().shape, generator=generator))


def by_hand(lora: LoRA) -> list[tuple[Tensor, Tensor]]:
    """Each adapted weight with what LoRA adds to it, row by row: scaling * B A."""
    changes = []
    for owner, name, adapter in lora._places:
        weight = getattr(owner.parametrizations, name).original if lora.attached else getattr(owner, name)
        change = torch.zeros_like(weight)
        for (start, stop), a, b in zip(adapter.spans, adapter.A, adapter.B, strict=True):
            for row in range(start, stop):
                change[row] = adapter.scaling * (b[row - start].unsqueeze(1) * a).sum(0)
        changes.append((weight, change.detach()))
    return changes


@pytest.mark.parametrize("targets", [("q", "k", "v"), ("v", "out")])
def test_both_forwards_see_the_changed_weights_and_get_them_back(case: Any, pixels: Tensor, targets: Any) -> None:
    before = {name: p.detach().clone() for name, p in case.module.named_parameters()}
    plain = case.forward(pixels).detach()
    with lora_(around(case), 3, lora_alpha=2.0, target_modules=targets, towers="image") as lora:
        torch.testing.assert_close(case.forward(pixels), plain, atol=1e-5, rtol=1e-5)  # B = 0
        fill(lora)
        library, tower = case.forward(pixels).detach(), case.tower(pixels).detach()
        changes = by_hand(lora)
    assert list(before) == [name for name, _ in case.module.named_parameters()]
    assert all(torch.equal(p, before[name]) for name, p in case.module.named_parameters())
    assert torch.equal(case.forward(pixels), plain)
    with torch.no_grad():
        for weight, change in changes:
            weight.add_(change)
        expected = case.forward(pixels).detach()
        for name, p in case.module.named_parameters():
            p.copy_(before[name])
    torch.testing.assert_close(library, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(tower, expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(expected, plain, atol=1e-3)


def test_gradients_are_those_of_the_product(case: Any, pixels: Tensor) -> None:
    with lora_(around(case), 2, towers=["image"], use_rslora=True) as lora:
        fill(lora)
        case.tower(pixels).square().sum().backward()
        for owner, name, adapter in lora._places:
            whole = getattr(owner.parametrizations, name).original.grad
            for (start, stop), a, b, ga, gb in zip(
                adapter.spans, adapter.A, adapter.B, adapter.A.grad, adapter.B.grad, strict=True
            ):
                g = whole[start:stop]
                limit = 1e-4 * max(1.0, float(g.abs().max()))
                torch.testing.assert_close(ga, 2**-0.5 * b.T @ g, atol=limit, rtol=1e-3)
                torch.testing.assert_close(gb, 2**-0.5 * g @ a.T, atol=limit, rtol=1e-3)
    case.module.zero_grad()


@pytest.fixture(params=["clip_folder", "siglip_folder", "hf_clip_folder", "hf_siglip_folder"])
def model(request: pytest.FixtureRequest) -> ImageTextModel:
    path: Path = request.getfixturevalue(request.param)
    return load(f"hf:{path}" if request.param.startswith("hf") else str(path)).eval()


WORDS = ["a photo of a cat", "red apple"]


@torch.no_grad()
def outputs(model: ImageTextModel) -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model.encode_image(images), model.encode_text(WORDS)


def test_merged_is_unmerged(model: ImageTextModel) -> None:
    model, plain = copy.deepcopy(model), outputs(model)
    lora = lora_(model, 2, lora_dropout=0.5, target_modules=("q", "k", "v", "out"))
    fill(lora)
    lora.eval()
    unmerged = outputs(model)
    lora.train()
    lora.merge()
    for merged, own, before in zip(outputs(model), unmerged, plain, strict=True):
        torch.testing.assert_close(merged, own, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(merged, before, atol=1e-3)
    assert model.history[-1].startswith("lora r=2 alpha=1 on q+k+v+out of image+text")
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    assert lora.training
    with pytest.raises(UsageError, match=r"not on the model: attach\(\) first"):
        lora.merge()


def test_adapters_travel_as_tensors(model: ImageTextModel) -> None:
    with lora_(model, 2, blocks=1) as first:
        fill(first)
        state, vector, wanted = first.state_dict(), first.vector(), outputs(model)
    assert all(name.split(".")[1].startswith(("image_1_", "text_1_")) for name in state)
    with lora_(model, 2, blocks=[1]) as second:
        second.load_state_dict(state)
        for own, other in zip(outputs(model), wanted, strict=True):
            torch.testing.assert_close(own, other)
        second.load_vector(torch.zeros_like(vector)).load_vector(vector)
        for own, other in zip(outputs(model), wanted, strict=True):
            torch.testing.assert_close(own, other)
        with pytest.raises(UsageError, match=r"have \d+ numbers, the vector 3"):
            second.load_vector(torch.zeros(3))


def test_only_the_factors_are_trained_inside_frozen(model: ImageTextModel) -> None:
    with frozen(model), lora_(model, 2) as lora:
        fill(lora)
        (model.encode_image(torch.rand(1, 3, 32, 32)).sum() + model.encode_text(WORDS).sum()).backward()
        assert all(p.grad is not None for p in lora.parameters())
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all(name.rsplit(".", 1)[1] in "AB" for name in trained)
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_one_tower_leaves_the_other(model: ImageTextModel) -> None:
    (image, text), fingerprint = outputs(model), model.fingerprint
    with lora_(model, 2, towers=("text",)) as lora:
        fill(lora)
        assert model.fingerprint != fingerprint
        other = outputs(model)
    assert model.fingerprint == fingerprint
    assert torch.equal(other[0], image)
    assert not torch.allclose(other[1], text, atol=1e-3)


def test_dropout_hides_inputs_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = LowRank(torch.zeros(6, 4), [(0, 3), (3, 6)], 2, 1.0, dropout=0.5)
    with torch.no_grad():
        layer.B.normal_()
    whole = layer.eval().delta().detach()
    assert torch.equal(layer.delta(), whole)
    layer.train()
    drawn = torch.stack([layer.delta().detach() for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), whole, atol=0.08, rtol=0)
    hidden = (drawn == 0).all(dim=2)  # whole inputs, each map by itself
    torch.testing.assert_close(hidden.float().mean(0), torch.full((2, 4), 0.5), atol=0.05, rtol=0)
    assert bool(((drawn == 2 * whole) | (drawn == 0)).all())


def test_the_first_draw_is_the_generators_and_as_wide_as_kaimings() -> None:
    def layer(seed: int) -> LowRank:
        generator = torch.Generator().manual_seed(seed)
        return LowRank(torch.zeros(8, 100), [(0, 8)], 16, 1.0, generator=generator)

    assert torch.equal(layer(0).A, layer(0).A)
    assert not torch.equal(layer(0).A, layer(1).A)
    reference = torch.nn.Linear(100, 16, bias=False).weight  # torch begins with the same distribution
    assert layer(0).A.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.02)
    assert layer(0).A.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)


@pytest.fixture(scope="module")
def tiny() -> ImageTextModel:
    torch.manual_seed(0)
    vision = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="tiny").eval()


def test_blocks_are_chosen_by_number_or_index(tiny: ImageTextModel) -> None:
    assert adapted_blocks(None, 4) == [0, 1, 2, 3]
    assert adapted_blocks(2, 4) == [2, 3]
    assert adapted_blocks([-1, 0, 3], 4) == [0, 3]
    assert first_block(tiny, "image", blocks=2) == 1
    assert first_block(tiny, "text", blocks=2) == 0
    assert first_block(tiny, "text", towers=["image"], blocks=1) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, "r must be at least 1"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\)"),
        ({"target_modules": ["q", "mlp"]}, "target_modules must be one or more of q, k, v, out"),
        ({"towers": []}, "towers must be one or more of image, text"),
        ({"blocks": 3}, "the text tower has 2 blocks; give 1..2, indices, or None"),
        ({"blocks": [5]}, r"indices must be in 0\.\.2 for the image tower"),
    ],
)
def test_wrong_arguments_are_named(tiny: ImageTextModel, options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lora_(tiny, **options)


def test_two_adapters_on_one_weight_are_refused(tiny: ImageTextModel) -> None:
    with lora_(tiny) as first:
        with pytest.raises(UsageError, match="image block 0 has an adapter already"):
            lora_(tiny)
        assert first.attach() is first
    with lora_(tiny), pytest.raises(UsageError, match="has an adapter already"):
        first.attach()
    assert not first.attached
