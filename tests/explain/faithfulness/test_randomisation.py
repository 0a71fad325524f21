"""The randomisation test tells a method that reads the model from one that reads the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.explain import InputXGradient, Saliency, parameter_randomisation, rank_correlation


def edges(model: Any, images: Tensor, target: Any) -> Tensor:
    """A 'method' that never looks at the model."""
    grey = images.mean(dim=1)
    return (grey - grey.roll(1, -1)).abs() + (grey - grey.roll(1, -2)).abs()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_saliency_loses_its_map_and_an_edge_detector_keeps_it(conv_net: nn.Module, images: Tensor) -> None:
    before = state(conv_net)
    conv_net.train()
    found = parameter_randomisation(conv_net, images, method=Saliency())
    assert found.layers == (("fc",), ("conv2",), ("conv1",))
    assert float(found.mean[-1]) < 0.5
    blind = parameter_randomisation(conv_net, images, method=edges)
    torch.testing.assert_close(blind.correlation, torch.ones(3, 3))
    torch.testing.assert_close(blind.absolute, torch.ones(3, 3))
    assert float(blind.floor.abs().max()) < 0.5
    for name, value in conv_net.state_dict().items():
        assert torch.equal(value, before[name])
    assert conv_net.training


def test_only_the_named_layer_changes_while_the_method_runs(conv_net: nn.Module, images: Tensor) -> None:
    before, seen = state(conv_net), []

    def spy(model: nn.Module, pictures: Tensor, target: Any) -> Tensor:
        seen.append((state(model), target))
        return pictures.mean(dim=1)

    predicted = conv_net(images).argmax(dim=1).tolist()
    parameter_randomisation(conv_net, images, method=spy, layers=["conv1"], seed=3)
    changed = {name for name, value in seen[1][0].items() if not torch.equal(value, before[name])}
    assert changed == {"conv1.weight", "conv1.bias"}
    # The same values in another order, and the class of the intact model.
    for name in changed:
        assert seen[1][0][name].flatten().sort().values.tolist() == before[name].flatten().sort().values.tolist()
    assert seen[0][1] == seen[1][1] == predicted
    seen.clear()
    parameter_randomisation(conv_net, images, 1, method=spy, steps=1)
    assert len(seen) == 2
    assert all(not torch.equal(value, before[name]) for name, value in seen[1][0].items())


def test_weights_come_back_after_an_error(conv_net: nn.Module, images: Tensor) -> None:
    before, calls = state(conv_net), []

    def breaks(model: nn.Module, pictures: Tensor, target: Any) -> Tensor:
        calls.append(target)
        if len(calls) == 3:
            raise RuntimeError("broken")
        return pictures.mean(dim=1)

    with pytest.raises(RuntimeError, match="broken"):
        parameter_randomisation(conv_net, images, 0, method=breaks)
    assert all(torch.equal(value, before[name]) for name, value in conv_net.state_dict().items())


def test_an_image_text_model_is_shuffled_from_its_projection_down(clip_model: Any) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = state(clip_model.backbone)
    found = parameter_randomisation(clip_model, images, "a cat", method=InputXGradient(), steps=3)
    names = [name for step in found.layers for name in step]
    assert names[0] == ""  # the module itself: projection, class token and positions
    assert names.index("transformer.resblocks.1.mlp.c_proj") < names.index("transformer.resblocks.0.mlp.c_fc")
    assert names[-1] == "conv1"
    assert found.correlation.shape == (3, 2)
    assert float(found.mean[-1].abs()) < 0.5
    assert all(torch.equal(value, before[name]) for name, value in clip_model.backbone.state_dict().items())


def test_rank_correlation_is_scipys_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 6, (3, 5, 7), generator=generator).float() for _ in range(2))
    want = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert np.allclose(rank_correlation(a, b).numpy(), want, atol=1e-6)
    assert rank_correlation(a, torch.ones(3, 5, 7)).tolist() == [0, 0, 0]
    with pytest.raises(UsageError, match="one shape"):
        rank_correlation(a, b[:2])


def test_bad_input_is_named(conv_net: nn.Module, images: Tensor) -> None:
    with pytest.raises(UsageError, match="layer 'act1'"):
        parameter_randomisation(conv_net, images, 0, method=edges, layers=["act1"])
    with pytest.raises(UsageError, match="steps=4: there are 3 layers"):
        parameter_randomisation(conv_net, images, 0, method=edges, steps=4)
    with pytest.raises(UsageError, match="no parameters"):
        parameter_randomisation(nn.Sequential(nn.Flatten()), images, 0, method=edges)
