"""What is particular to timm's Eva: rotations that follow the tokens, its class token's evidence, segmentation."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import GradECLIP
from binderclip.models import ImageTextModel, build
from binderclip.models.towers import open_image_tower
from binderclip.models.towers.tokens import append_tokens, gather_patches
from binderclip.models.towers.trace import Record, trace
from binderclip.segment import PRESETS, Segmenter

from ..conftest import EVA02, shake

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 24}


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    """open_clip's EVA02 of three blocks: its wrapper and text tower around a small trunk."""
    torch.manual_seed(0)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": None}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    found = build(config, name="eva02", preprocess={"size": 32})
    found.backbone.visual.trunk = shake(Eva(**SIZES, **EVA02), scale=0.1)
    found.preprocess = found.preprocess.at(32)
    return found.eval()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def entering(trunk: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What enters the last block, and the rotation of the patches, by timm alone."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = trunk.blocks[-1].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args[0], kwargs["rope"])), with_kwargs=True
    )
    trunk(pixels)
    handle.remove()
    return seen[0]


def test_open_clips_eva02_is_open_clips(model, pictures) -> None:
    pixels = model.preprocess(pictures)
    assert model.image_tower.kind == "timm_eva"
    assert torch.allclose(model.image_tower(pixels), model.backbone.encode_image(pixels), atol=1e-5)
    assert trace(model.image_tower, pixels, record=Record("attn")).value(("attn", -1)).shape == (2, 4, 17, 17)


def test_scores_depend_on_the_distance_alone(model) -> None:
    """Patches of equal content: a rotation makes q . k a function of the displacement."""
    tower = model.image_tower
    tokens = tower.embed(torch.zeros(1, 3, 32, 32))
    same = torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(3)).expand(1, 17, 48)
    q, k, _ = tower.blocks[1].qkv(same, tower.rope(tokens))
    scores = (q @ k.mT)[0, :, 1:, 1:].view(4, 4, 4, 4, 4)
    assert torch.allclose(scores[:, 0, 0, 1, 2], scores[:, 2, 1, 3, 3], atol=1e-4)
    assert torch.allclose(scores[:, 3, 2, 0, 0], scores[:, 3, 3, 0, 1], atol=1e-4)
    assert not torch.allclose(scores[:, 0, 0, 1, 2], scores[:, 0, 0, 2, 1], atol=1e-2)


def test_rotations_follow_gathered_and_spare_appended_tokens(model) -> None:
    tower = model.image_tower
    tokens = tower.embed(torch.rand(2, 3, 32, 32))
    rope = tower.rope(tokens)
    kept = gather_patches(tokens, torch.tensor([[3, 9], [15, 0]]))
    assert torch.equal(tower.rope(kept)[:, 0], torch.stack([rope[0, 0, [0, 4, 10]], rope[0, 0, [0, 16, 1]]]))
    more = tower.rope(append_tokens(tokens, torch.zeros(1, 2, 48)))
    block, q = tower.blocks[0], torch.randn(2, 4, 19, 12)
    turned = block.rotate(q, q, more)[0]
    assert torch.equal(turned[:, :, [0, 17, 18]], q[:, :, [0, 17, 18]])
    assert not torch.allclose(turned[:, :, 1:17], q[:, :, 1:17], atol=1e-2)
    with pytest.raises(UsageError, match=r"rope=tower\.rope\(tokens\)"):
        block.qkv(tokens.x)


@pytest.mark.parametrize("ksim", [False, True])
def test_grad_eclip_by_timms_own_modules(model, pictures, ksim) -> None:
    trunk, pixels = model.backbone.visual.trunk, model.preprocess(pictures)
    block, (x, rope) = trunk.blocks[-1], entering(trunk, pixels)
    attention, normed = block.attn, block.norm1(x)
    heads = lambda y: y.unflatten(-1, (4, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = (heads(layer(normed)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = (torch.cat([y[:, :, :1], apply_rot_embed_cat(y[:, :, 1:], rope)], 2) for y in (q, k))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    stream = x + attention.proj(attention.norm(out))
    stream = stream + block.mlp(block.norm2(stream))
    embedding = trunk.forward_head(trunk.norm(stream))
    assert torch.allclose(embedding, model.backbone.encode_image(pixels), atol=1e-5)
    cosine = F.cosine_similarity(embedding, model.encode_text("a cat").detach(), dim=-1)
    gradient = torch.autograd.grad(cosine.sum(), out)[0][:, :1]
    wanted = (gradient * v.transpose(1, 2).flatten(2)[:, 1:]).sum(-1)
    if ksim:
        q, k = (y.transpose(1, 2).flatten(2) for y in (q, k))
        alike = F.cosine_similarity(q[:, :1], k[:, 1:], dim=-1)
        low, high = alike.amin(-1, keepdim=True), alike.amax(-1, keepdim=True)
        wanted = wanted * (alike - low) / (high - low)
    found = GradECLIP(ksim=ksim, projected=False)(model, pictures, "a cat").layers[0]
    assert torch.allclose(found.view(2, 4, 4), wanted.detach().view(2, 4, 4), atol=1e-6)


@torch.no_grad()
def test_the_plain_preset_is_timms_tokens(model) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4))
    trunk = model.backbone.visual.trunk
    tokens = trunk.forward_features(model.preprocess(picture[None]))[:, 1:]
    rows = F.normalize(trunk.head(trunk.fc_norm(tokens)), dim=-1)
    wanted = (rows @ model.encode_text(["cat", "dog"], normalize=True).T).mT.view(1, 2, 4, 4)
    found = Segmenter(model, "plain", size=32, templates="{}")(picture, ["cat", "dog"]).scores
    wanted = model.scale() * F.interpolate(wanted, size=found.shape[-2:], mode="bilinear")[0]
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    "preset", ["value", "maskclip", "sclip", "clearclip", "clip_surgery", "cliptrase", "itaclip", "cliper", "vv"]
)
def test_presets_of_attention_run(model, preset) -> None:
    assert preset in PRESETS
    found = Segmenter(model, preset, size=32)(torch.rand(3, 32, 40), ["cat", "dog", "tree"])
    assert found.labels.shape == (32, 40)
    assert bool(found.scores.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_type": "mixed"}, "learned rotations"),
        ({"attn_type": "rope", "gated": True}, "gated"),
        ({"attn_type": "rope", "num_kv_heads": 2}, "grouped-query"),
        ({"rope_shift_coords": 0.5, "rope_type": "dinov3"}, "randomly changed"),
        ({"global_pool": ""}, "global_pool ''"),
    ],
)
def test_what_is_not_supported_is_named(change, message) -> None:
    gated = change.pop("gated", False)
    trunk = Eva(**{**SIZES, **EVA02, "scale_attn_inner": False, **change})
    if gated:
        trunk.blocks[0].attn.gate = nn.Linear(48, 48)
    with pytest.raises(NotSupported, match=message):
        open_image_tower(trunk)


def test_registered_models_open_as_they_are() -> None:
    torch.manual_seed(0)
    for name in ("eva02_tiny_patch14_224", "vit_pe_core_tiny_patch16_384"):
        trunk = timm.create_model(name, num_classes=8).eval()
        side = trunk.patch_embed.img_size[0]
        x = torch.randn(1, 3, side, side)
        with torch.no_grad():
            assert torch.allclose(open_image_tower(trunk)(x), trunk(x), atol=1e-5), name
