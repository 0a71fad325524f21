"""Text towers: parity with each library, replaced words, explicit pooling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
)

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import Record, Recorder, Site, TextTower, open_text_tower
from binderclip.models.towers.tokens import append_tokens, gather
from binderclip.models.towers.trace import trace

PAD, START, END = 0, 38, 39
IDS = torch.tensor([[START, 5, 6, END, 0, 0, 0, 0], [START, 9, 8, 7, 6, 5, 4, END], [START, END, 0, 0, 0, 0, 0, 0]])
VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
SMALL = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 4, "layers": 3}


def shake(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return module.eval()


def clip(**text: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = shake(open_clip.CLIP(24, vision_cfg=VISION, text_cfg={**SMALL, **text}))
    return model, model.encode_text


def custom(pad_mask: bool = False, **text: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = shake(open_clip.CustomTextCLIP(24, vision_cfg=VISION, text_cfg={**SMALL, **text}))
    model.text.use_pad_mask = pad_mask  # open_clip's configuration does not pass this argument on
    return model, model.encode_text


def coca(corrected: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    config = {**SMALL, "embed_cls": True, "output_tokens": True}
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 3}
    decoder = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 4, "layers": 1}
    model = open_clip.CoCa(24, multimodal_cfg=decoder, text_cfg=config, vision_cfg={**vision, "output_tokens": True})
    model.text.correct_cls_mask = corrected
    return shake(model), lambda ids: model.encode_text(ids, normalize=False)


def hf_sizes(**extra: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 8,
    }  # fmt: skip
    return {**sizes, **extra}


HF_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def features(model: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    out = model.get_text_features(input_ids=ids, **kwargs)
    return out if isinstance(out, Tensor) else out.pooler_output


def hf_clip(eos: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    text = hf_sizes(eos_token_id=eos, bos_token_id=START, pad_token_id=PAD)
    model = shake(CLIPModel(CLIPConfig(text_config=text, vision_config=HF_VISION, projection_dim=24)))
    return model, functools.partial(features, model)


def hf_siglip() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    config = SiglipConfig(
        text_config=hf_sizes(projection_size=16, bos_token_id=START, eos_token_id=END), vision_config=HF_VISION
    )
    model = shake(SiglipModel(config))
    return model, functools.partial(features, model)


def metaclip2(eos: int) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    text = hf_sizes(eos_token_id=eos, bos_token_id=START, pad_token_id=PAD)
    model = shake(MetaClip2Model(MetaClip2Config(text_config=text, vision_config=HF_VISION, projection_dim=24)))
    return model, functools.partial(features, model)


def bert(model_class: Any, config: Any, **text: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Chinese CLIP or AltCLIP, padding masked as their tokenizers say."""
    text = hf_sizes(pad_token_id=PAD, type_vocab_size=2, **text)
    model = shake(model_class(config(text_config=text, vision_config=HF_VISION, projection_dim=24)))
    return model, lambda ids: features(model, ids, attention_mask=(ids != PAD).long())


BUILDERS: dict[str, Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]]] = {
    "clip": clip,
    "clip both ways, biased projection": lambda: clip(no_causal_mask=True, proj_bias=True),
    "clip eos": lambda: clip(pool_type="eos", eos_id=END),
    "custom last": lambda: custom(pool_type="last", no_causal_mask=True, proj_bias=True),
    "custom first, padding masked": lambda: custom(pool_type="first", no_causal_mask=True, pad_mask=True),
    "custom eos, padding masked": lambda: custom(pool_type="eos", eos_id=END, no_causal_mask=True, pad_mask=True),
    "custom argmax, layer scale": lambda: custom(ls_init_value=0.3),
    "custom no projection": lambda: custom(proj_type="none", qk_norm=True),
    "coca": coca,
    "coca corrected": lambda: coca(corrected=True),
    "hf clip": lambda: hf_clip(END),
    "hf clip, old end token": lambda: hf_clip(2),
    "hf siglip": hf_siglip,
    "hf metaclip 2": lambda: metaclip2(END),
    "hf chinese clip": lambda: bert(ChineseCLIPModel, ChineseCLIPConfig),
    # RoBERTa's positions start behind that of padding
    "hf altclip": lambda: bert(AltCLIPModel, AltCLIPConfig, project_dim=20, max_position_embeddings=9),
}


@functools.cache
def opened(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor], TextTower]:
    model, forward = BUILDERS[name]()
    return model, forward, open_text_tower(model)


@pytest.fixture(params=list(BUILDERS))
def trio(request: pytest.FixtureRequest) -> tuple[nn.Module, Callable[[Tensor], Tensor], TextTower]:
    return opened(request.param)


def test_composition_is_the_librarys_forward(trio):
    model, forward, tower = trio
    ours, theirs = tower(IDS), forward(IDS)
    assert torch.allclose(ours, theirs, atol=1e-5)
    weights = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    names, parameters = zip(*model.named_parameters(), strict=True)
    mine = torch.autograd.grad((ours * weights).sum(), parameters, allow_unused=True)
    other = torch.autograd.grad((theirs * weights).sum(), parameters, allow_unused=True)
    for name, a, b in zip(names, mine, other, strict=True):
        assert (a is None) == (b is None), name
        if b is not None:
            assert torch.allclose(a, b, atol=1e-5 * max(1.0, float(b.abs().max()))), name


def test_recorded_attention_explains_the_output(trio):
    _, _, tower = trio
    recorder = Recorder(Record("attn", "v", "attn_out"), tower.depth)
    tokens = tower.run(tower.embed(IDS), record=recorder)
    assert torch.allclose(tower.project(tower.pool(tokens)), tower(IDS), atol=1e-5)
    for layer, block in enumerate(tower.blocks):
        attention = recorder.values[Site("attn", layer)]
        mixed = block.mix(attention, recorder.values[Site("v", layer)])
        assert torch.allclose(mixed, recorder.values[Site("attn_out", layer)], atol=1e-5)
        later = torch.ones(attention.shape[-2:]).triu(1).bool()
        assert bool((attention[..., later] == 0).all()) == tower.causal


def test_own_vectors_as_override_change_nothing(trio):
    _, _, tower = trio
    words = tower.embed_tokens(IDS)
    plain = tower(IDS)
    run = lambda override: tower.project(tower.pool(tower.run(tower.embed(IDS, override=override))))  # noqa: E731
    assert torch.allclose(run(words), plain, atol=1e-6)
    assert torch.allclose(run({5: tower.embed_tokens(torch.tensor([[5]]))[0, 0]}), plain, atol=1e-6)


def test_pseudo_token_stands_for_a_word(trio):
    _, _, tower = trio
    pseudo = IDS.masked_fill(IDS == 5, 4000)
    vector = tower.embed_tokens(torch.tensor([[5]]))[0, 0].detach().clone().requires_grad_()
    out = tower.project(tower.pool(tower.run(tower.embed(pseudo, override={4000: vector}))))
    assert torch.allclose(out, tower(IDS), atol=1e-6)
    out.square().sum().backward()
    assert vector.grad.abs().max() > 0
    per_row = torch.stack([vector.detach(), vector.detach() * 2, vector.detach()])
    other = tower.project(tower.pool(tower.run(tower.embed(pseudo, override={4000: per_row}))))
    assert torch.allclose(other[0], out[0], atol=1e-6)
    assert not torch.allclose(other[1], out[1], atol=1e-4)


def test_pooling_position_is_explicit(trio):
    _, _, tower = trio
    tokens = tower.embed(IDS)
    states = tower.states(tower.run(tokens))
    rows = torch.arange(3)
    assert torch.allclose(states[rows, tokens.pool_at], tower.pool(tower.run(tokens)), atol=1e-6)
    given = tower.embed(SimpleNamespace(ids=IDS, position=torch.tensor([1, 2, 0])))
    assert torch.allclose(tower.pool(tower.run(given)), states[rows, torch.tensor([1, 2, 0])], atol=1e-6)


def test_gathered_words_keep_order_and_pooling():
    _, _, tower = opened("clip")
    tokens = tower.embed(IDS[:2])
    order = torch.tensor([7, 3, 0, 1, 2, 4, 5, 6])
    shuffled = gather(tokens, order)
    assert torch.allclose(tower.pool(tower.run(shuffled)), tower.pool(tower.run(tokens)), atol=1e-5)
    with pytest.raises(UsageError, match="pooled token"):
        gather(tokens, torch.arange(3))


def test_hugging_face_attention_mask():
    model, _, tower = opened("hf siglip")
    mask = IDS != PAD
    mask[:, -1] = True  # the pooled place
    theirs = features(model, IDS, attention_mask=mask.long())
    ours = tower.project(tower.pool(tower.run(tower.embed(IDS, mask=mask))))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["hf chinese clip", "hf altclip"])
def test_sums_of_post_norm_blocks_do_not_split(name):
    with pytest.raises(NotSupported, match="post-norm"):
        trace(opened(name)[2], IDS).contributions()


def test_metaclip2s_end_token_2_is_no_legacy():
    """CLIP's early configurations say 2 and mean the largest id; MetaCLIP 2's end token is 2."""
    model, forward = metaclip2(2)
    tower = open_text_tower(model)
    ids = torch.tensor([[START, 7, 2, 39, 0, 0, 0, 0]])
    assert tower.embed(ids).pool_at.tolist() == [2]
    assert torch.allclose(tower(ids), forward(ids), atol=1e-5)


def test_shorter_sentences_are_taken():
    _, _, tower = opened("clip")
    assert torch.allclose(tower(IDS[:1, :4]), tower(IDS[:1]), atol=1e-5)  # causal: padding after the end is not seen


def test_bad_input_is_refused():
    _, _, tower = opened("clip")
    with pytest.raises(UsageError, match=r"0\.\.39 or overridden"):
        tower.embed(torch.tensor([[1, 40]]))
    with pytest.raises(UsageError, match="9 words"):
        tower.embed(torch.ones(1, 9, dtype=torch.long))
    with pytest.raises(UsageError, match="integers"):
        tower.embed(torch.ones(1, 8))
    with pytest.raises(UsageError, match=r"override\[5\]"):
        tower.embed(IDS, override={5: torch.zeros(7)})
    with pytest.raises(UsageError, match="override must be"):
        tower.embed(IDS, override=torch.zeros(3, 8, 5))
    with pytest.raises(UsageError, match="embed_tokens"):
        append_tokens(tower.embed(IDS), torch.zeros(1, 1, 32))


def test_unsupported_text_towers_are_named():
    with pytest.raises(NotSupported, match="pool_type 'none'"):
        open_text_tower(custom(pool_type="none")[0])
    with pytest.raises(NotSupported, match=r"Linear is not supported; supported: .*SiglipModel"):
        open_text_tower(nn.Linear(2, 2))
