"""Middle maps: the library's own modules, the embedding, gradients, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, load
from binderclip.quality import MiddleMaps, NativeEmbedding


def hooked(module: Any, kept: list[Tensor]) -> Any:
    return module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))


@torch.no_grad()
def test_levels_of_a_resnet_are_the_outputs_of_its_stages(resnet: ImageTextModel) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept: list[Tensor] = []
    handles = [hooked(getattr(resnet.visual, f"layer{n}"), kept) for n in (1, 2, 3)]
    entered = resnet.visual.layer1.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))  # type: ignore[operator, union-attr]
    resnet.encode_image(images)
    for handle in (*handles, entered):
        handle.remove()
    maps = MiddleMaps(resnet, levels=(0, 1, 2, 3))
    seen = maps(images)
    for found, wanted in zip(seen.maps, kept, strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert [x.shape[2] for x in seen.maps] == [16, 16, 8, 4]
    assert [x.shape[1] for x in seen.maps] == maps.channels
    assert torch.allclose(seen.embedding, F.normalize(NativeEmbedding(resnet)(images), dim=-1), atol=1e-5)


def test_levels_of_a_transformer_are_its_patch_tokens_behind_each_block(vit: ImageTextModel) -> None:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    kept: list[Tensor] = []
    blocks = vit.visual.transformer.resblocks  # type: ignore[union-attr]
    entered = blocks[0].register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))  # type: ignore[index, union-attr]
    handles = [hooked(block, kept) for block in blocks]  # type: ignore[union-attr]
    with torch.no_grad():
        vit.encode_image(images)
    for handle in (*handles, entered):
        handle.remove()
    seen = MiddleMaps(vit, levels=(2, 1, 0))(images)
    for found, tokens in zip(seen.maps, kept[::-1], strict=True):
        wanted = tokens[:, 1:].mT.unflatten(2, (4, 4))
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(seen.embedding, vit.encode_image(images.detach(), normalize=True), atol=1e-5)
    (seen.maps[0].sum() + seen.embedding[:, 0].sum()).backward()
    assert images.grad is not None
    assert bool((images.grad.abs().amax((0, 1)) > 0).all())
    # Pixels that leave [0, 1] still have gradients.
    outside = (images.detach() + 2).requires_grad_(True)
    MiddleMaps(vit, levels=(1,))(outside).maps[0].square().sum().backward()
    assert float(outside.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_mistakes_are_named(vit: ImageTextModel) -> None:
    for levels in ((), (3,), (-1,)):
        with pytest.raises(UsageError, match="from 0 to 2 for vit"):
            MiddleMaps(vit, levels)
    with pytest.raises(UsageError, match="20 x 32 pixels: both sides must be multiples of 8"):
        MiddleMaps(vit, (1,))(torch.zeros(1, 3, 20, 32))
    with pytest.raises(NotSupported, match="a CLIP ResNet or a transformer"):
        MiddleMaps(load("small-b"))
