"""Pixel prompts against frames put together by hand, training loops written out, and the zero-shot classifier.

Papers: arXiv 2203.17274 (p021) and arXiv 2212.10556 (p013).
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor, nn

from binderclip.adapt import METHODS, PixelPrompt, VisualPromptTuning, load_head, output_mapping, save_head
from binderclip.adapt.selection.candidate_heads import candidates
from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel, build, classifier
from binderclip.models.image_text.preprocess import CLIP_STD, Preprocess
from binderclip.optim import schedule

NAMES = ["ant", "bee", "cat"]


class LinearEncoder(nn.Module):
    """A frozen encoder of 16 x 16 pixels that is a matrix, with the face of an image-text model."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess(size=(16, 16))
        self.layer = nn.Sequential(nn.Linear(3 * 16 * 16, 6), nn.Dropout(0.5))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels.flatten(1))


@pytest.fixture
def model() -> LinearEncoder:
    torch.manual_seed(0)
    return LinearEncoder().train()


def pictures(n: int = 6, side: int = 16) -> tuple[Tensor, np.ndarray, dict[str, np.ndarray]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, side, side, generator=generator)
    text = torch.randn(3, 6, generator=generator).numpy()
    return x, np.array((NAMES * n)[:n]), dict(zip(NAMES, text, strict=True))


def zero_shot(model: LinearEncoder, images: Tensor, prior: dict[str, np.ndarray], scale: float = 100.0) -> Tensor:
    """Cosines with the texts, written out."""
    with torch.no_grad():
        feature = F.normalize(model.eval().encode_pixels(model.preprocess.normalize(images)), dim=-1)
    rows = F.normalize(torch.tensor(np.stack([prior[name] for name in NAMES])).double(), dim=-1).float()
    return scale * feature @ rows.T


def test_the_published_frame_has_the_published_number_of_entries() -> None:
    prompt = PixelPrompt(224, init="normal")
    assert (prompt.width, prompt.free) == (30, 69_840)
    assert int((prompt.pixels != 0).sum()) == 69_840
    assert PixelPrompt(64, 8).free == 12 * 8 * 56
    assert PixelPrompt(224, kind="patch").free == PixelPrompt(224, kind="random-patch").free == 3 * 30 * 30
    assert PixelPrompt(224, inner=164).width == 30


def test_a_frame_in_normalised_space_is_four_bars_added_after_normalisation() -> None:
    torch.manual_seed(0)
    prompt, p, size = PixelPrompt(20, 3, init="normal", space="normalised"), 3, 20
    up, down = prompt.pixels[:, :p], prompt.pixels[:, -p:]
    left, right = prompt.pixels[:, p:-p, :p], prompt.pixels[:, p:-p, -p:]
    centre = torch.zeros(3, size - 2 * p, size - 2 * p)
    frame = torch.cat([up, torch.cat([left, centre, right], dim=2), down], dim=1)
    x, normalise = torch.rand(4, 3, size, size), Preprocess().normalize
    torch.testing.assert_close(normalise(prompt(x)), normalise(x) + frame)
    assert torch.equal(prompt(x)[..., p:-p, p:-p], x[..., p:-p, p:-p])
    # The same numbers as plain pixels move the normalised picture by 1 / std.
    plain = PixelPrompt(20, 3)
    plain.load_state_dict({**plain.state_dict(), "pixels": prompt.pixels.data})
    moved = frame / torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(normalise(plain(x)), normalise(x) + moved, atol=1e-4, rtol=1e-4)


def test_around_means_shrunk_padded_with_black_and_framed() -> None:
    prompt = PixelPrompt(16, inner=10, init="normal")
    x = torch.rand(2, 3, 16, 16)
    shown = prompt(x)
    small = Preprocess(size=(10, 10)).fit(x)
    torch.testing.assert_close(shown[..., 3:13, 3:13], small)
    with torch.no_grad():
        prompt.pixels.zero_()
    assert prompt(x)[..., :3, :].abs().max() == prompt(x)[..., 13:].abs().max() == 0


def test_a_random_patch_lies_in_one_place_a_batch_and_everywhere_in_time() -> None:
    prompt = PixelPrompt(7, 3, kind="random-patch")
    with torch.no_grad():
        prompt.pixels.fill_(1.0)
    generator, seen = torch.Generator().manual_seed(0), Counter()
    for _ in range(400):
        shown = prompt(torch.zeros(2, 3, 7, 7), generator=generator)[:, 0]
        assert torch.equal(shown[0], shown[1])
        rows, columns = shown[0].nonzero(as_tuple=True)
        seen[int(rows.min()), int(columns.min())] += 1
        assert shown[0].sum() == 9
    # As published, the last row and column of places are never drawn: 0..S-p-1.
    assert set(seen) == {(top, left) for top in range(4) for left in range(4)}
    assert max(seen.values()) < 50


def test_the_gradient_is_the_sum_over_the_batch_of_the_input_gradients_on_the_frame(model: LinearEncoder) -> None:
    prompt = PixelPrompt(16, 2, init="normal", space="normalised")
    x = torch.rand(5, 3, 16, 16)

    def loss(normalised: Tensor) -> Tensor:
        return model.eval().encode_pixels(normalised).square().sum()

    loss(model.preprocess.normalize(prompt(x))).backward()
    pixels = model.preprocess.normalize(prompt(x)).detach().requires_grad_()
    loss(pixels).backward()
    expected = pixels.grad.sum(dim=0)
    expected[:, 2:-2, 2:-2] = 0
    torch.testing.assert_close(prompt.pixels.grad, expected)


def test_no_training_is_the_zero_shot_classifier(model: LinearEncoder) -> None:
    x, y, prior = pictures()
    head = VisualPromptTuning(prior, model=model, epochs=0).fit(x, y)
    head.prompt_.zero_()
    np.testing.assert_allclose(head.decision_function(x), zero_shot(model, x, prior), atol=1e-4)
    around = METHODS["evp"](prior, model=model, epochs=0, width=3, scale=20.0).fit(x, y)
    padded = F.pad(Preprocess(size=(10, 10)).fit(x), [3] * 4)
    assert around.prompt_.abs().max() == 0
    torch.testing.assert_close(around.transform(x), padded)
    np.testing.assert_allclose(around.decision_function(x), zero_shot(model, padded, prior, 20.0), atol=1e-4)


def test_vp_is_momentum_sgd_on_the_frame(model: LinearEncoder) -> None:
    x, y, prior = pictures()
    epochs, lr = 40, 3.0
    options = {"model": model, "lr": lr, "width": 2, "batch_size": 6, "scale": 5.0, "seed": 4}
    start = VisualPromptTuning(prior, epochs=0, **options).fit(x, y).prompt_
    head = VisualPromptTuning(prior, epochs=epochs, **options).fit(x, y)
    inside = (slice(None), slice(2, -2), slice(2, -2))
    frame, velocity = start.clone().requires_grad_(), torch.zeros_like(start)
    warmup = round(0.05 * epochs)
    targets = torch.tensor([NAMES.index(name) for name in y])
    rows = F.normalize(torch.tensor(np.stack([prior[name] for name in NAMES])), dim=-1)
    model.eval()
    for step in range(epochs):
        feature = F.normalize(model.encode_pixels(model.preprocess.normalize(x) + frame), dim=-1)
        (gradient,) = torch.autograd.grad(F.cross_entropy(5.0 * feature @ rows.T, targets), frame)
        gradient[inside] = 0
        velocity = 0.9 * velocity + gradient
        late = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (epochs - warmup)))
        frame.data -= lr * ((step + 1) / warmup if step < warmup else late) * velocity
    torch.testing.assert_close(head.prompt_, frame.detach(), atol=1e-4, rtol=1e-3)
    assert head.prompt_[inside].abs().max() == 0
    assert (head.n_trainable_, head.prompt_.shape) == (12 * 2 * 14, (3, 16, 16))
    assert head.history_["loss"][-1] < 0.7 * head.history_["loss"][0]


def test_the_published_schedule_at_its_corners() -> None:
    rate = schedule("cosine", steps=5000, warmup=1000)
    assert [rate(0), rate(999), rate(1000)] == [1 / 1000, 1.0, 1.0]
    assert rate(4999) == pytest.approx(0.5 * (1 + math.cos(math.pi * 3999 / 4000)))


def test_evp_steps_are_the_gradient_over_its_length_on_the_whole_picture(model: LinearEncoder) -> None:
    x, y, prior = pictures()
    epochs, lr = 4, 0.7
    options = {"model": model, "epochs": epochs, "lr": lr, "width": 3, "batch_size": 6, "flips": False}
    head = METHODS["evp"](prior, **options).fit(x, y)
    targets = torch.tensor([NAMES.index(name) for name in y])
    rows = F.normalize(torch.tensor(np.stack([prior[name] for name in NAMES])), dim=-1)
    padded = F.pad(Preprocess(size=(10, 10)).fit(x), [3] * 4)
    delta, mask = torch.zeros(3, 16, 16), torch.ones(16, 16)
    mask[3:-3, 3:-3] = 0
    model.eval()
    for epoch in range(epochs):
        delta.requires_grad_()
        feature = F.normalize(model.encode_pixels(model.preprocess.normalize(padded + delta)), dim=-1)
        # The factor 1,000 must not matter.
        loss = 1000 * F.cross_entropy(100.0 * feature @ rows.T, targets)
        (gradient,) = torch.autograd.grad(loss, delta)
        step = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) * mask * gradient / gradient.norm()
        assert step.norm() < lr
        delta = delta.detach() - step
    torch.testing.assert_close(head.prompt_, delta, atol=1e-5, rtol=1e-4)
    sign = METHODS["evp"](prior, **{**options, "gradient": "sign", "epochs": 1}).fit(x, y)
    torch.testing.assert_close(sign.prompt_.abs(), (lr * mask * torch.ones(3, 1, 1)))
    # By default a step is as long as the published one: 70 over all numbers of a frame of 30 in 224 pixels.
    published = 70 / math.sqrt(3 * (224**2 - 164**2))
    for recipe, rate in (("evp", published), ("visual-prompt", published * 40 / 70)):
        free = METHODS[recipe](prior, **{**options, "gradient": "sign", "epochs": 1, "lr": None})
        still = METHODS[recipe](prior, **{**options, "gradient": "sign", "epochs": 0, "lr": None}).fit(x, y).prompt_
        torch.testing.assert_close((free.fit(x, y).prompt_ - still).abs(), rate * mask * torch.ones(3, 1, 1))


def test_evp_scales_its_rate_with_the_root_of_the_frame(model: LinearEncoder) -> None:
    _, _, prior = pictures()
    head = METHODS["evp"](prior, model=model, size=64, width=8)
    assert head._training().lr == pytest.approx(70 * math.sqrt(5376 / 69_840))
    assert METHODS["evp"](prior, model=model, size=224)._training().lr == 70.0
    assert METHODS["visual-prompt"](prior, model=model, size=64)._training().lr == 40.0


def test_the_model_is_left_as_it_was_and_a_seed_gives_the_same_bits(model: LinearEncoder) -> None:
    x, y, prior = pictures()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heads = [
        VisualPromptTuning(prior, model=model, kind="random-patch", width=4, epochs=2, batch_size=2, seed=s).fit(x, y)
        for s in (0, 0, 1)
    ]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert np.array_equal(heads[0].decision_function(x), heads[1].decision_function(x))
    assert np.array_equal(heads[0].decision_function(x), heads[0].decision_function(x))
    assert not torch.equal(heads[0].prompt_, heads[2].prompt_)
    assert heads[0].prompt_.shape == (3, 4, 4)
    assert clone(heads[0]).model is model


def test_it_comes_back_from_disk_and_is_a_predictor(model: LinearEncoder, tmp_path: Path) -> None:
    x, y, prior = pictures()
    head = METHODS["evp"](prior, model=model, width=3, epochs=1).fit(x, y)
    save_head(head, tmp_path / "h", model="linear")
    with pytest.raises(UsageError, match="works through its model"):
        load_head(tmp_path / "h")
    again = load_head(tmp_path / "h", model=model)
    assert np.array_equal(again.decision_function(x), head.decision_function(x))
    images = torch.rand(2, 3, 20, 20, requires_grad=True)
    logits = again.predictor(model)(images)
    logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert again.predictor(model).classes == NAMES


def test_another_size_runs_through_the_tower() -> None:
    torch.manual_seed(0)
    config = {
        "embed_dim": 6,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    clip = build(config, name="tiny")
    x, y, prior = pictures(side=32)
    head = VisualPromptTuning(prior, model=clip, size=16, epochs=1).fit(x, y)
    small = Preprocess(size=(16, 16)).fit(x)
    head.prompt_.zero_()
    with torch.no_grad():
        feature = F.normalize(clip.image_tower(clip.preprocess.normalize(small)), dim=-1)
    rows = F.normalize(torch.tensor(np.stack([prior[name] for name in NAMES])), dim=-1)
    np.testing.assert_allclose(head.decision_function(x), 100 * feature @ rows.T, atol=1e-3)
    assert head.prompt_.shape == (3, 16, 16)


def test_a_selection_builds_the_image_heads_and_auto_leaves_them_out(tiny: ImageTextModel) -> None:
    bank = tiny.text_bank(NAMES)
    names = ["visual-prompt", "evp", "ft-clip"]
    found = candidates(names, tiny, bank, METHODS)
    assert {entry.cost for entry in found} == {"trained on images"}
    assert not set(names) & {entry.name for entry in candidates("auto", tiny, bank, METHODS)}
    x, y, _ = pictures(side=32)
    for entry in found:
        head = entry.build(3).set_params(epochs=1)
        assert (head.seed, head.model) == (3, tiny)
        assert set(head.fit(x, y).predict(x)) <= set(NAMES)
    assert [entry.build(0).get_params().get("recipe") for entry in found] == ["vp", "evp", "ft-clip"]


def test_a_plain_classifier_gets_new_meanings_for_its_outputs() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))
    plain = classifier(net, [f"old {i}" for i in range(7)], size=16)
    x, y, prior = pictures(12)
    with torch.no_grad():
        logits = plain(x)
    targets = np.array([NAMES.index(name) for name in y])
    first = VisualPromptTuning(model=plain, outputs="first", epochs=0).fit(x, y)
    first.prompt_.zero_()
    np.testing.assert_allclose(first.decision_function(x), logits[:, :3], atol=1e-5)
    # Bahng et al. read output c for class c, Wu et al. the most frequent one.
    assert VisualPromptTuning(model=plain, epochs=0).fit(x, y).outputs_.tolist() == [0, 1, 2]
    frequent = METHODS["evp"](model=plain, around=False, epochs=0).fit(x, y)
    assert frequent.outputs_.tolist() != [0, 1, 2]
    assert all(
        Counter(logits.argmax(1)[targets == c].tolist())[int(index)]
        == max(Counter(logits.argmax(1)[targets == c].tolist()).values())
        for c, index in enumerate(frequent.outputs_)
    )
    assert frequent.terms(x)["outputs"].shape == (12, 3)
    with pytest.raises(UsageError, match="a plain classifier has outputs of its own"):
        VisualPromptTuning(prior, model=plain).fit(x, y)
    with pytest.raises(UsageError, match="2 outputs for 3 classes"):
        output_mapping(torch.rand(6, 2), torch.tensor([0, 1, 2] * 2), "first")
    with pytest.raises(UsageError, match="must be 'first' or 'frequent', not 'best'"):
        output_mapping(torch.rand(6, 2), torch.tensor([0, 1, 2] * 2), "best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner": 224}, "same frame on both sides of 224 pixels, not 224"),
        ({"inner": 163}, "not 163"),
        ({"inner": 164, "width": 20}, "leaves a frame of 30 pixels, but width=20"),
        ({"inner": 164, "kind": "patch"}, "goes with kind='frame', not 'patch'"),
        ({"width": 112}, r"width must lie in 1\.\.111 for a frame"),
        ({"kind": "border"}, "kind must be one of frame, patch, random-patch"),
        ({"space": "lab"}, "space must be one of normalised, pixels"),
        ({"init": "ones"}, "init must be one of normal, zeros"),
    ],
)
def test_prompts_that_cannot_be_are_refused(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PixelPrompt(224, **options)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"for pictures of 16 x 16 pixels, not 20 x 20.*PixelPrompt\(20\)"):
        PixelPrompt(16)(torch.rand(1, 3, 20, 20))
    with pytest.raises(UsageError, match="must be square, not 20 x 16"):
        PixelPrompt(16, inner=8)(torch.rand(1, 3, 20, 16))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": None}, "needs its model"),
        ({"recipe": "evvp"}, "recipe must be one of vp, evp, got 'evvp'"),
        ({"gradient": "adam"}, "gradient must be momentum, normalised or sign, not 'adam'"),
        ({"text_prior": None}, "text_prior is missing"),
        ({"kind": "patch", "around": True}, "goes with kind='frame'"),
    ],
)
def test_bad_settings_are_named(model: LinearEncoder, options: dict, words: str) -> None:
    x, y, prior = pictures()
    with pytest.raises(UsageError, match=words):
        VisualPromptTuning(**{"text_prior": prior, "model": model, "epochs": 1, **options}).fit(x, y)


@torch.no_grad()
def test_a_pad_prompter_of_the_official_program_is_the_same_frame(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"pad_up": (1, 3, 2, 9), "pad_down": (1, 3, 2, 9), "pad_left": (1, 3, 5, 2), "pad_right": (1, 3, 5, 2)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({"epoch": 3, "state_dict": state, "best_acc1": torch.tensor(71.0)}, tmp_path / "model_best.pth.tar")
    prompt = PixelPrompt.from_released(tmp_path / "model_best.pth.tar")
    assert (prompt.size, prompt.width, prompt.space, prompt.free) == (9, 2, "normalised", 12 * 2 * 7)
    # The official forward pass, on normalised pixels.
    inside = torch.cat([state["pad_left"], torch.zeros(1, 3, 5, 5), state["pad_right"]], 3)
    canvas = torch.cat([state["pad_up"], inside, state["pad_down"]], 2)
    images = torch.rand(2, 3, 9, 9, generator=generator)
    std = torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(prompt(images) / std, images / std + canvas)
    for change, said in (({"pad_up": None}, "there is no pad_up"), ({"pad_left": torch.zeros(1, 3, 4, 2)}, "pad_left")):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=said):
            PixelPrompt.from_released(tmp_path / "w.pth")
