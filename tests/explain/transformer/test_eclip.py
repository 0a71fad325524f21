"""Grad-ECLIP and MedGrad E-CLIP (p018, arXiv 2501.06887): against open_clip's own weights, by hand, and in limits."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import GradCAM, GradECLIP, MedGradECLIP, attribute_all
from binderclip.explain.transformer.eclip_parts import channel_entropy, channel_evidence, local_entropy
from binderclip.models import ImageTextModel, build
from binderclip.models.towers.block import join_heads
from binderclip.models.towers.trace import Record, Site, trace


def made(*, heads: int = 4, **vision) -> ImageTextModel:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "layers": 2, "width": 48, "head_width": 48 // heads, "patch_size": 8} | vision
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": max(1, heads // 2), "layers": 2}
    model = build({"embed_dim": 24, "vision_cfg": sizes, "text_cfg": text}, name="tiny")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.ndim:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return made()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def twin(model: ImageTextModel, pictures: torch.Tensor, text: str, heads: int, ksim: str) -> torch.Tensor:
    """The published code's steps with open_clip's weights: queries, keys and values of the last block made anew."""
    visual, block = model.backbone.visual, model.backbone.visual.transformer.resblocks[-1]
    entering = []
    handle = block.ln_1.register_forward_hook(lambda module, inputs, output: entering.append((inputs[0], output)))
    visual(model.preprocess(pictures))
    handle.remove()
    stream, normed = entering[0]
    q, k, v = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    parts = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    weights = (parts[0] @ parts[1].transpose(-1, -2) / parts[0].shape[-1] ** 0.5).softmax(-1)
    out = (weights @ parts[2]).transpose(1, 2).flatten(2)
    x = stream + block.attn.out_proj(out)
    x = x + block.mlp(block.ln_2(x))
    embedding = visual.ln_post(x[:, 0]) @ visual.proj
    cosine = F.cosine_similarity(embedding, model.encode_text(text).detach(), dim=-1)
    gradient = torch.autograd.grad(cosine.sum(), out)[0][:, :1]
    total = (gradient * v[:, 1:]).sum(-1)
    if ksim:
        if ksim == "projected":
            q, k = block.attn.out_proj(q), block.attn.out_proj(k)
        alike = F.normalize(q[:, :1], dim=-1) @ F.normalize(k[:, 1:], dim=-1).transpose(1, 2)
        low, high = alike.amin(-1, keepdim=True), alike.amax(-1, keepdim=True)
        total = total * ((alike - low) / (high - low))[:, 0]
    return total.relu().detach().unflatten(1, (4, 4))


@pytest.mark.parametrize("ksim", ["projected", "raw", ""])
@pytest.mark.parametrize("heads", ["model", "single"])
def test_it_is_the_published_code_on_open_clip(model, pictures, heads, ksim):
    method = GradECLIP(heads=heads, ksim=bool(ksim), projected=ksim == "projected")
    found = method(model, pictures, "a red cat")
    expected = twin(model, pictures, "a red cat", 4 if heads == "model" else 1, ksim)
    assert torch.allclose(found.layers[0].clamp(min=0), expected, atol=2e-7, rtol=1e-3)
    assert expected.amax() > 1e-4
    if heads == "model":
        features, text = (
            F.normalize(x, dim=-1) for x in (model.encode_image(pictures), model.encode_text("a red cat"))
        )
        assert torch.allclose(found.value, (features @ text.T)[:, 0].detach(), atol=1e-6)


def test_one_head_is_one_head(pictures):
    alone = made(heads=1)
    ours, theirs = (GradECLIP(heads=heads)(alone, pictures, "a cat").layers[0] for heads in ("model", "single"))
    assert torch.allclose(ours, theirs, atol=1e-7)
    words = [GradECLIP(heads=heads).words(alone, pictures, "a red cat").scores[0] for heads in ("model", "single")]
    assert words[0] == pytest.approx(words[1], abs=1e-5)


def test_with_the_true_attention_the_evidence_is_complete(model, pictures):
    """sum_i sum_d g_d a_i v_id = sum_d g_d o_d at the class token, every head with its own attention."""
    exact = copy.deepcopy(model).double()
    pixels = exact.preprocess(pictures.double())
    seen = trace(exact.image_tower, pixels, record=Record("attn", "v", "heads", layers=[-1]))
    text = exact.encode_text("a cat").detach()
    gradient = seen.grad(lambda t: F.cosine_similarity(t.embedding, text), Site("heads", -1))
    value, out = (seen.value(Site(name, -1)).detach() for name in ("v", "heads"))
    reader = torch.zeros(2, dtype=torch.long)
    evidence = channel_evidence(join_heads(gradient), join_heads(value), reader)
    attention = seen.value(Site("attn", -1)).detach()[:, :, 0].transpose(1, 2)  # (B, L, H)
    summed = (evidence.unflatten(-1, (4, -1)).sum(-1) * attention).sum((1, 2))
    expected = (join_heads(gradient)[:, 0] * join_heads(out)[:, 0]).sum(-1)
    assert torch.allclose(summed.double(), expected, rtol=1e-5, atol=1e-9)


def test_a_block_that_attends_uniformly_has_no_similarity(pictures):
    uniform = made()
    with torch.no_grad():
        attention = uniform.backbone.visual.transformer.resblocks[-1].attn
        attention.in_proj_weight[:48] = 0
        attention.in_proj_bias[:48] = 0
    found, plain = (GradECLIP(ksim=ksim)(uniform, pictures, "a cat").maps() for ksim in (True, False))
    assert torch.isfinite(found).all()
    assert torch.allclose(found, plain)
    earlier = GradECLIP(layer=0)(uniform, pictures, "a cat").maps()
    assert not torch.allclose(earlier, plain)


def test_blocks_are_cut_off_and_summed(model, pictures):
    both = GradECLIP(layer=[0, 1])(model, pictures, "a cat").maps()
    single = [GradECLIP(layer=block)(model, pictures, "a cat").maps() for block in (0, -1)]
    assert torch.allclose(both, single[0] + single[1], atol=1e-7)
    one = GradECLIP(layer=(0, 1), heads="single")(model, pictures, "a cat")
    assert len(one.layers) == 2


def test_signs_are_kept_on_request(model, pictures):
    signed = GradECLIP(signed=True)(model, pictures, "a cat")
    assert (signed.maps() < 0).any()
    assert torch.equal(signed.layers[0], GradECLIP()(model, pictures, "a cat").layers[0])


def test_methods_share_one_pass(model, pictures):
    methods = {"cam": GradCAM(), "e": GradECLIP(), "m": MedGradECLIP(), "s": GradECLIP(heads="single")}
    together = attribute_all(model, pictures, ["a cat", "a dog"], methods=methods)
    for name, method in methods.items():
        alone = method(model, pictures, ["a cat", "a dog"])
        assert torch.allclose(together[name].maps(), alone.maps(), atol=1e-7), name


def test_a_classifier_on_the_model_is_explained(model, pictures):
    predictor = model.predictor(["a cat", "a dog"])
    for heads in ("model", "single"):
        found = GradECLIP(heads=heads)(predictor, pictures, [0, 1])
        cosines = [GradECLIP(heads=heads, signed=True)(model, pictures, text).layers[0] for text in ("a cat", "a dog")]
        expected = torch.stack([cosines[0][0], cosines[1][1]]) * model.scale().detach()
        assert torch.allclose(found.layers[0], expected, rtol=1e-3, atol=1e-5)


def test_entropy_of_neighbourhoods():
    assert torch.allclose(local_entropy(torch.full((1, 4, 5), 0.3)), torch.ones(1, 4, 5), atol=1e-6)
    spike = torch.zeros(1, 5, 5)
    spike[0, 2, 2] = 7.0
    assert local_entropy(spike).abs().max() == 0
    maps = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = local_entropy(maps)
    for b in range(2):
        for y in range(4):
            for x in range(6):
                near = maps[b, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].flatten()
                share = near / near.sum()
                assert float(found[b, y, x]) == pytest.approx(float(-(share * share.log()).sum()) / math.log(len(near)))
    assert torch.allclose(channel_entropy(torch.full((1, 1, 1, 8), -2.0)), torch.ones(1, 1, 1))
    assert float(channel_entropy(F.one_hot(torch.tensor([[[3]]]), 8).float())) == 0


def test_medgrad_is_grad_eclip_times_the_entropy(model, pictures):
    plain = GradECLIP()(model, pictures, "a cat").layers[0]
    assert torch.equal(MedGradECLIP(entropy=None)(model, pictures, "a cat").layers[0], plain)
    assert torch.equal(MedGradECLIP(mu=0.0)(model, pictures, "a cat").layers[0], plain)
    half = MedGradECLIP(mu=0.5)(model, pictures, "a cat").layers[0]
    assert torch.allclose(half, plain * (0.5 + 0.5 * local_entropy(plain)), atol=1e-7)
    assert not torch.allclose(half, plain, rtol=0.05)
    channel = MedGradECLIP(entropy="channel")(model, pictures, "a cat").layers[0]
    assert ((channel.abs() <= plain.abs()) & (channel * plain >= 0)).all()


def test_words_of_a_caption_by_hand(model):
    """One block of the text tower, every step again with open_clip's weights."""
    image = torch.randn(1, 24, generator=torch.Generator().manual_seed(4))
    found = GradECLIP(projected=False).words(model, image, "a red cat", layers=1)
    backbone, block = model.backbone, model.backbone.transformer.resblocks[-1]
    ids = model.tokenize("a red cat").ids
    entering = []
    handle = block.ln_1.register_forward_hook(lambda module, inputs, output: entering.append((inputs[0], output)))
    backbone.encode_text(ids)
    handle.remove()
    stream, normed = entering[0]
    end = int(ids.argmax())
    q, k, v = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=-1)
    parts = [x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (q, k, v)]
    weights = (parts[0] @ parts[1].transpose(-1, -2) / 4 + backbone.attn_mask[:16, :16]).softmax(-1)
    out = (weights @ parts[2]).transpose(1, 2).flatten(2)
    x = stream + block.attn.out_proj(out)
    x = x + block.mlp(block.ln_2(x))
    cosine = F.cosine_similarity(backbone.ln_final(x[:, end]) @ backbone.text_projection, image)
    gradient = torch.autograd.grad(cosine, out)[0][0, end]
    alike = F.cosine_similarity(q[0, end : end + 1], k[0, : end + 1], dim=-1)
    alike = (alike - alike.min()) / (alike.max() - alike.min())
    scores = ((gradient * v[0, : end + 1]).sum(-1) * alike).relu()[1:end]
    expected = (scores / scores.sum()).tolist()
    assert found.scores[0] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert sum(found.scores[0]) == pytest.approx(1)
    assert GradECLIP().words(model, image, "a red cat").layers == (0, 1)


def test_errors_name_what_is_wrong(model, pictures):
    with pytest.raises(UsageError, match="heads must be one of model, single"):
        GradECLIP(heads="all")
    with pytest.raises(UsageError, match="names no block"):
        GradECLIP(layer=[])
    with pytest.raises(UsageError, match="entropy must be one of local, channel, None"):
        MedGradECLIP(entropy="global")
    with pytest.raises(UsageError, match="mu must be in"):
        MedGradECLIP(mu=2.0)
    for heads in ("model", "single"):
        with pytest.raises(UsageError, match="has 2 blocks"):
            GradECLIP(layer=7, heads=heads)(model, pictures, "a cat")
        with pytest.raises(NotSupported, match="pools by 'mean'"):
            GradECLIP(heads=heads)(made(pool_type="avg"), pictures, "a cat")
    with pytest.raises(UsageError, match="at least 1"):
        GradECLIP().words(model, pictures, "a cat", layers=0)
    with pytest.raises(NotSupported, match="Conv2d has no transformer tower"):
        GradECLIP(heads="single")(torch.nn.Conv2d(3, 1, 1), pictures, 0)
