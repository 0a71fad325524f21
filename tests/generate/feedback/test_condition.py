"""What a generator is told of a picture (p056, p072, p166): limits of local tokens, pooling, bridges and prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.generate import ConditionTap, VisualFeatures
from binderclip.models import ImageTextModel


def features(count: int = 3, patches: int = 6) -> VisualFeatures:
    g = torch.Generator().manual_seed(0)
    return VisualFeatures(torch.randn(count, 8, generator=g), torch.randn(count, patches, 8, generator=g))


def bare(**settings: Any) -> ConditionTap:
    return ConditionTap(8, sequence_width=8, bridge=None, **settings)


def test_features_are_those_of_the_library_s_own_forward(model: ImageTextModel, images: torch.Tensor) -> None:
    tap = ConditionTap(24, sequence_width=24, local="all", bridge=None)
    seen = tap.features(model.image_tower, images)
    torch.testing.assert_close(seen.embedding, model.encode_pixels(images))
    assert seen.patches is not None
    blocks: list[torch.Tensor] = []
    hook = model.backbone.visual.transformer.register_forward_hook(lambda *call: blocks.append(call[2]))  # type: ignore[union-attr]
    model.encode_pixels(images)
    hook.remove()
    visual: Any = model.backbone.visual
    torch.testing.assert_close(seen.patches, visual.ln_post(blocks[0][:, 1:]) @ visual.proj)
    assert ConditionTap(24, pooled_width=24, bridge=None).features(model.image_tower, images).patches is None


def test_no_local_token_leaves_the_embedding_and_all_tokens_leave_no_chance() -> None:
    seen = features()
    alone = bare()(seen).sequence
    assert alone is not None
    assert torch.equal(alone, seen.embedding[:, None])
    whole = bare(local="all")(seen).sequence
    assert whole is not None
    assert seen.patches is not None
    assert torch.equal(whole, torch.cat([seen.embedding[:, None], seen.patches], 1))


def test_drawn_tokens_are_uniform_with_replacement_and_differ_between_pictures_and_calls() -> None:
    seen = VisualFeatures(torch.zeros(40, 8), torch.arange(5.0)[None, :, None].expand(40, -1, 8))
    tap, g = bare(local=50), torch.Generator().manual_seed(0)
    first, second = (tap(seen, g).sequence for _ in range(2))
    again = tap(seen, torch.Generator().manual_seed(0)).sequence
    assert first is not None
    assert second is not None
    assert again is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    drawn = first[:, 1:, 0]
    assert not torch.equal(drawn[0], drawn[1])
    counts = drawn.long().flatten().bincount(minlength=5)
    assert (counts / 2000 - 0.2).abs().max() < 4 * (0.2 * 0.8 / 2000) ** 0.5


def test_pooled_tokens_are_means_of_neighbours_as_far_as_they_go() -> None:
    seen = features(patches=7)
    sequence = bare(local="all", pool=3)(seen).sequence
    assert sequence is not None
    assert seen.patches is not None
    expected = torch.stack([seen.embedding, seen.patches[:, :3].mean(1), seen.patches[:, 3:6].mean(1)], 1)
    torch.testing.assert_close(sequence, expected)


def test_a_prompt_is_added_token_by_token_or_as_its_mean() -> None:
    seen, prompt = features(), torch.randn(3, 8)
    equal, longer = bare(local=2, prompt=prompt), bare(local="all", prompt=prompt)
    g = torch.Generator().manual_seed(1)
    plain = bare(local=2)(seen, torch.Generator().manual_seed(1)).sequence
    sequence = equal(seen, g).sequence
    assert plain is not None
    assert sequence is not None
    torch.testing.assert_close(sequence, plain + prompt)
    plain, sequence = bare(local="all")(seen).sequence, longer(seen).sequence
    assert plain is not None
    assert sequence is not None
    torch.testing.assert_close(sequence, plain + prompt.mean(0))
    assert not any(parameter.requires_grad for parameter in equal.parameters())


def test_bridges_are_separate_and_keep_the_length_where_there_is_none() -> None:
    seen = features()
    tap = ConditionTap(8, sequence_width=5, pooled_width=4, bridge="mlp")
    condition = tap(seen)
    for part, layers in ((condition.sequence, tap.sequence), (condition.pooled, tap.pooled)):
        _norm, first, _gelu, last = layers  # type: ignore[misc]
        by_hand = nn.functional.gelu(nn.functional.layer_norm(seen.embedding, (8,)) @ first.weight.T + first.bias)
        torch.testing.assert_close(part.flatten(1), by_hand @ last.weight.T + last.bias)  # type: ignore[union-attr]
    longer = VisualFeatures(2 * seen.embedding)
    raw = ConditionTap(8, pooled_width=8, bridge=None)(longer).pooled
    assert raw is not None
    assert torch.equal(raw, 2 * seen.embedding)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "sequence_width, pooled_width"),
        ({"pooled_width": 8, "local": 3}, "go into the sequence"),
        ({"sequence_width": 8, "local": -1}, "local"),
        ({"sequence_width": 8, "pool": 2}, "local = 'all'"),
        ({"sequence_width": 8, "bridge": "cubic"}, "bridge"),
        ({"sequence_width": 6, "bridge": None}, "without a bridge"),
        ({"sequence_width": 6, "prompt": torch.zeros(2, 5)}, "prompt"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConditionTap(8, **settings)


def test_features_that_do_not_fit_are_refused(model: ImageTextModel, images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="24 dimensions"):
        ConditionTap(8, pooled_width=8).features(model.image_tower, images)
    with pytest.raises(UsageError, match="patch tokens"):
        bare(local=2)(VisualFeatures(torch.zeros(2, 8)))
    with pytest.raises(UsageError, match="more than the 6"):
        bare(local="all", pool=7)(features())
