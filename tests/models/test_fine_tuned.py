"""Image towers of others: Alpha-CLIP's (p075) by its layers written out, TeCoA's (p152), and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import CheckpointError
from binderclip.models import AlphaCLIP, ImageTextModel, build, load, load_alpha_clip, load_image_tower

WIDTH, HEADS, LAYERS, PATCH, SIDE, OUT = 64, 4, 2, 8, 32, 16
CONFIG = {
    "embed_dim": OUT,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": PATCH},
    "text_cfg": {"width": 32, "heads": 2, "layers": 1, "context_length": 16, "vocab_size": 8000},
}


@pytest.fixture(scope="module")
def tiny() -> ImageTextModel:
    torch.manual_seed(0)
    return build(CONFIG, tokenizer=load("small").tokenizer)


def official_state(seed: int = 1) -> dict[str, Tensor]:
    """Random tensors under the names and of the shapes of `alpha_clip`'s VisionTransformer."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {
        "conv1.weight": drawn(WIDTH, 3, PATCH, PATCH),
        "conv1_alpha.weight": drawn(WIDTH, 1, PATCH, PATCH),
        "class_embedding": drawn(WIDTH),
        "positional_embedding": drawn((SIDE // PATCH) ** 2 + 1, WIDTH),
        "proj": drawn(WIDTH, OUT),
    }
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{i}.ln_{n}" for i in range(LAYERS) for n in (1, 2))):
        state |= {f"{norm}.weight": 1 + drawn(WIDTH), f"{norm}.bias": drawn(WIDTH)}
    for i in range(LAYERS):
        for name, (out, inside) in {
            "attn.in_proj": (3 * WIDTH, WIDTH), "attn.out_proj": (WIDTH, WIDTH),
            "mlp.c_fc": (4 * WIDTH, WIDTH), "mlp.c_proj": (WIDTH, 4 * WIDTH),
        }.items():  # fmt: skip
            state[f"transformer.resblocks.{i}.{name}.weight"] = drawn(out, inside)
            state[f"transformer.resblocks.{i}.{name}.bias"] = drawn(out)
    return state


def official_forward(state: dict[str, Tensor], pixels: Tensor, alpha: Tensor | None) -> Tensor:
    """The official forward pass, from normalised pixels and a normalised alpha, by the named tensors alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"])

    def line(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.conv2d(pixels, state["conv1.weight"], stride=PATCH)
    if alpha is not None:
        x = x + F.conv2d(alpha, state["conv1_alpha.weight"], stride=PATCH)
    x = x.flatten(2).mT
    x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], 1) + state["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(LAYERS):
        block = f"transformer.resblocks.{i}"
        q, k, v = line(norm(x, f"{block}.ln_1"), f"{block}.attn.in_proj").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
        x = x + line((weights @ v).transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        hidden = line(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        x = x + line(hidden * (1.702 * hidden).sigmoid(), f"{block}.mlp.c_proj")
    return norm(x[:, 0], "ln_post") @ state["proj"]


def normalised(model: ImageTextModel, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.preprocess.mean, model.preprocess.std))
    return (images - mean) / std


@torch.no_grad()
def test_files_of_alpha_clip_give_its_features(tiny: ImageTextModel, tmp_path: Path) -> None:
    state = official_state()
    torch.save(state, tmp_path / "alpha.pth")
    model = load_alpha_clip(tiny, tmp_path / "alpha.pth")
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    mask = (torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    for alpha in (mask, torch.ones_like(mask)):
        expected = official_forward(state, normalised(tiny, images), (alpha - 0.5) / 0.26)
        torch.testing.assert_close(model.encode_image(images, alpha), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_image(images), expected, rtol=1e-4, atol=1e-5)  # all ones by default
    texts = ["a cat", "a dog"]
    assert torch.equal(model.encode_text(texts), tiny.encode_text(texts))
    # A folder of it is an ordinary model, and the model that was given is as it was.
    again = AlphaCLIP(load(model.model.save(tmp_path / "folder")))
    torch.testing.assert_close(again.encode_image(images, mask), model.encode_image(images, mask))
    assert not hasattr(tiny.backbone.visual.conv1, "alpha_weight")


@torch.no_grad()
def test_a_tower_of_openais_names_replaces_that_of_a_copy(tiny: ImageTextModel, tmp_path: Path) -> None:
    state = official_state(4)
    del state["conv1_alpha.weight"]
    theirs = {name.replace("attn.in_proj.", "attn.in_proj_"): value for name, value in state.items()}
    # As the official program of TeCoA saves it.
    torch.save({"epoch": 9, "state_dict": {"pad_up": torch.zeros(1)}, "vision_encoder_state_dict": theirs},
               tmp_path / "model_best.pth.tar")  # fmt: skip
    before = tiny.encode_image(images := torch.rand(2, 3, SIDE, SIDE))
    model = load_image_tower(tiny, tmp_path / "model_best.pth.tar", part="vision_encoder_state_dict")
    expected = official_forward(state, normalised(tiny, images), None)
    torch.testing.assert_close(model.encode_image(images), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(tiny.encode_image(images), before)
    assert model.history[-1] == "image tower of model_best.pth.tar"


def test_towers_that_do_not_fit_are_refused(tiny: ImageTextModel, tmp_path: Path) -> None:
    state = official_state()
    adapted = {**state, "transformer.resblocks.0.attn.in_proj.lora_A": torch.zeros(32, WIDTH)}
    torch.save(adapted, tmp_path / "lora.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(transformer.resblocks.0.attn.in_proj.lora_A\)"):
        load_alpha_clip(tiny, tmp_path / "lora.pth")
    torch.save(state, tmp_path / "alpha.pth")
    with pytest.raises(CheckpointError, match="does not fit the image tower of new: 4 missing"):
        load_image_tower(tiny, tmp_path / "alpha.pth")
    torch.save({**state, "positional_embedding": torch.zeros(50, WIDTH)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"positional_embedding \(50, 64\) for \(17, 64\)"):
        load_alpha_clip(tiny, tmp_path / "other.pth")
