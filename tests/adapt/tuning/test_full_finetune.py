"""Full fine-tuning against a loop written on open_clip's modules, the recipe's constants, and its own promises.

Paper: arXiv 2212.06138 (p014).
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.adapt import METHODS, FullFineTune, load_head, recipe_augmentation, save_head
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, build, load
from binderclip.models.image_text.preprocess import Preprocess

NAMES = np.array(["ant", "bee", "cat"])


def tiny(seed: int = 0, **vision: object) -> ImageTextModel:
    torch.manual_seed(seed)
    config = {
        "embed_dim": 6,
        "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    return build(config, name=f"tiny-{seed}")


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return tiny()


def pictures(n: int = 9, side: int = 16) -> tuple[Tensor, np.ndarray]:
    """Pictures whose class is their brightest channel."""
    x = 0.6 * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))
    classes = np.arange(n) % 3
    x[torch.arange(n), torch.from_numpy(classes)] += 0.4
    return x, NAMES[classes]


def test_the_first_logits_are_almost_zero(model: ImageTextModel) -> None:
    x, y = pictures()
    logits = torch.from_numpy(FullFineTune(model, epochs=0).fit(x, y).decision_function(x))
    assert F.cross_entropy(logits, torch.arange(9) % 3) == pytest.approx(math.log(3), rel=0.01)
    assert 0 < logits.abs().max() < 0.01


def test_training_is_adamw_with_rates_by_layer_and_an_average(model: ImageTextModel) -> None:
    x, y = pictures()
    head = FullFineTune(model, epochs=10, lr=0.02, layer_decay=0.5, batch_size=9, ema=0.6, size=16)
    start = copy.deepcopy(head).set_params(epochs=0).fit(x, y).network()
    head.fit(x, y)
    # The same network on open_clip's own modules, with its own forward up to the patch tokens.
    visual, norm, last = copy.deepcopy(model.visual), copy.deepcopy(start.fc_norm), copy.deepcopy(start.head)
    visual.output_tokens, visual.pool_type = True, "tok"
    trained: list[tuple[nn.Parameter, int, float]] = []
    for name, parameter in visual.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1", "ln_post", "proj")))
        depth = int(name.split(".")[2]) + 1 if "resblocks" in name else 0
        decays = parameter.ndim > 1 and "embedding" not in name
        trained += [(parameter, depth, 0.05 if decays else 0.0)] if parameter.requires_grad else []
    trained += [(p, 3, 0.05 if p.ndim > 1 else 0.0) for p in (*norm.parameters(), *last.parameters())]
    for parameter, _, _ in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW([{"params": [p], "weight_decay": w} for p, _, w in trained], betas=(0.9, 0.999))
    average = [p.detach().clone() for p, _, _ in trained]
    taken: dict[str, Tensor] = {}
    visual.transformer.register_forward_hook(lambda module, args, out: taken.update(tokens=out))

    def forward() -> Tensor:
        visual(model.preprocess.normalize(x))
        return last(norm(taken["tokens"][:, 1:]).mean(dim=1))

    for step in range(10):
        late = 0.02 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 8))
        rate = 0.02 * (step + 1) / 2 if step < 2 else 1e-6 + late * (1 - 1e-6 / 0.02)
        for group, (_, depth, _) in zip(optimizer.param_groups, trained, strict=True):
            group["lr"] = rate * 0.5 ** (3 - depth)
        optimizer.zero_grad()
        F.cross_entropy(forward(), torch.arange(9) % 3, label_smoothing=0.1).backward()
        optimizer.step()
        average = [0.6 * a + 0.4 * p.detach() for a, (p, _, _) in zip(average, trained, strict=True)]
    final = forward().detach().numpy()
    with torch.no_grad():
        for value, (parameter, _, _) in zip(average, trained, strict=True):
            parameter.copy_(value)
    expected = forward().detach()
    np.testing.assert_allclose(head.decision_function(x), expected, atol=2e-3)
    np.testing.assert_allclose(head.without_average().decision_function(x), final, atol=2e-3)
    assert np.abs(final - expected.numpy()).max() > 0.02
    assert head.n_trainable_ == sum(p.numel() for p, _, _ in trained)
    assert np.abs(expected.numpy()).max() > 0.05


def test_it_learns_and_the_model_stays_as_it_was(model: ImageTextModel) -> None:
    x, y = pictures(30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heads = [FullFineTune(model, epochs=15, lr=5e-3, seed=seed).fit(x, y) for seed in (0, 0, 1)]
    assert heads[0].score(x, y) == 1.0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert np.array_equal(heads[0].decision_function(x), heads[1].decision_function(x))
    assert not np.array_equal(heads[0].decision_function(x), heads[2].decision_function(x))
    # The tower moved, its projection did not: what the texts see has changed, in the same space.
    assert heads[0].image_features(x).shape == (30, 6)
    assert not torch.allclose(heads[0].image_features(x), model.encode_image(x), atol=1e-3)
    untrained = FullFineTune(model, epochs=0).fit(x, y)
    torch.testing.assert_close(untrained.image_features(x), model.encode_image(x), atol=1e-5, rtol=1e-4)


def test_freezing_and_the_class_token(model: ImageTextModel) -> None:
    x, y = pictures()
    frozen = FullFineTune(model, epochs=1, lr=0.01, ema=0.0).fit(x, y)
    free = FullFineTune(model, epochs=1, lr=0.01, ema=0.0, freeze_patches=False).fit(x, y)
    assert free.n_trainable_ - frozen.n_trainable_ == model.visual.conv1.weight.numel()
    assert torch.equal(frozen.network().visual.conv1.weight, model.visual.conv1.weight)
    assert not torch.equal(free.network().visual.conv1.weight, model.visual.conv1.weight)
    first = FullFineTune(model, epochs=0, token="class").fit(x, y)
    net = first.network()
    tokens = net.tower.run(net.tower.embed(net.pixels(x))).x
    np.testing.assert_allclose(first.decision_function(x), net.head(net.fc_norm(tokens[:, 0])).numpy(), atol=1e-6)


def test_mixup_is_the_loss_of_mixed_labels(model: ImageTextModel) -> None:
    x, y = pictures()
    net = FullFineTune(model, epochs=0, mixup=0.8, recipe="plain").fit(x, y).network().eval()
    with torch.no_grad():
        net.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    targets = torch.arange(9) % 3
    torch.manual_seed(5)
    loss = net.losses(x, targets, targets)["task"]
    torch.manual_seed(5)
    share = float(torch._sample_dirichlet(torch.full((2,), 0.8))[0])
    order = torch.randperm(9)
    soft = share * F.one_hot(targets, 3) + (1 - share) * F.one_hot(targets[order], 3)
    torch.testing.assert_close(loss, F.cross_entropy(net.logits(share * x + (1 - share) * x[order]), soft))
    assert 0.05 < share < 0.95


@pytest.mark.parametrize("kind", ["hf", "timm"])
def test_towers_of_other_libraries(kind: str, tmp_path: Path) -> None:
    x, y = pictures(side=32)
    if kind == "hf":
        from transformers import CLIPConfig, CLIPModel

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision = sizes | {"image_size": 32, "patch_size": 8}
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=sizes | {"vocab_size": 60}, vision_config=vision, projection_dim=6))
        steps, words = Preprocess(size=(32, 32)), load("small").tokenizer
        model = ImageTextModel(clip.eval(), kind="hf-clip", name="tiny-hf", preprocess=steps, tokenizer=words)
        text = model.backbone.text_model
    else:
        model = load("small")
        text = None
    head = FullFineTune(model, epochs=1, lr=1e-3, size=32).fit(x, y)
    assert head.network().tower is not model.image_tower
    if text is not None:
        assert model.backbone.text_model is text
        assert all(p.requires_grad for p in text.parameters())
    again = load_head(save_head(head, tmp_path / "h", model="m"), model=model)
    assert np.array_equal(again.decision_function(x), head.decision_function(x))


def test_it_comes_back_from_disk_and_is_a_predictor(model: ImageTextModel, tmp_path: Path) -> None:
    x, y = pictures()
    head = METHODS["ft-clip"](model, epochs=2, lr=0.01, augment=recipe_augmentation(16)).fit(x, y)
    save_head(head, tmp_path / "h", model="tiny-0")
    again = load_head(tmp_path / "h", model=model)
    assert np.array_equal(again.decision_function(x), head.decision_function(x))
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    again.predictor(model)(images).sum().backward()
    assert images.grad.abs().sum() > 0
    with pytest.raises(UsageError, match="not in files"):
        again.without_average()
    with pytest.raises(UsageError, match="was fine-tuned from tiny-0, not from tiny-1"):
        load_head(tmp_path / "h", model=tiny(1, layers=1)).decision_function(x)


def test_augmentation_changes_pictures_one_by_one_and_can_be_switched_off() -> None:
    x, _ = pictures(6, side=24)
    same = recipe_augmentation(24, crop=1.0, flips=False, magnitude=0, erasing=0.0)(x)
    # A whole crop still changes the aspect: compare colours, not places.
    assert (same.mean(dim=(2, 3)) - x.mean(dim=(2, 3))).abs().max() < 0.02
    torch.manual_seed(0)
    twice = recipe_augmentation(24)(torch.stack([x[0]] * 2))
    assert twice.shape == (2, 3, 24, 24)
    assert not torch.equal(twice[0], twice[1])
    torch.manual_seed(0)
    assert torch.equal(recipe_augmentation(24)(torch.stack([x[0]] * 2)), twice)
    erased = recipe_augmentation(24, crop=1.0, flips=False, magnitude=0, erasing=1.0)(torch.zeros(20, 3, 24, 24))
    share = (erased > 0).float().mean(dim=(1, 2, 3))
    assert 0.01 < share.min() < share.max() < 0.36
    with pytest.raises(UsageError, match="crop lies in"):
        recipe_augmentation(24, crop=0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": None}, "needs the model to start from"),
        ({"recipe": "ft"}, "recipe must be one of ft-clip, plain, got 'ft'"),
        ({"token": "mean"}, "token must be one of patches, class, got 'mean'"),
        ({"mixup": -1.0}, "mixup must be at least 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"ema": 1.0}, "ema must be a decay"),
        ({"layer_decay": 0.0}, r"decay must be in \(0, 1\]"),
    ],
)
def test_bad_settings_are_named(model: ImageTextModel, options: dict, words: str) -> None:
    x, y = pictures()
    with pytest.raises(UsageError, match=words):
        FullFineTune(**{"model": model, "epochs": 1, **options}).fit(x, y)
