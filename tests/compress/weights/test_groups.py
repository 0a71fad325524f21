"""Masked groups and removed ones give the same logits, and the groups are those of torch-pruning (p046, p030)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch_pruning
import torchvision
from torch import nn

from binderclip.compress import channel_groups, masked, merged_groups, remove, tower_groups
from binderclip.compress.weights.groups import PruneGroups
from binderclip.errors import NotSupported, UsageError
from binderclip.models import build, open_image_tower, open_text_tower

VISION = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16, "mlp_ratio": 2.0}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0}


def tiny_clip(**options: Any) -> Any:
    torch.manual_seed(0)
    return build({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, **options})


def tiny_timm(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
    return timm.models.VisionTransformer(**{**settings, **options}).eval()


def resnet() -> nn.Module:
    """A ResNet with batch norms whose statistics and biases are not those of a new one."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def random_keep(groups: list[PruneGroups], rate: float = 0.5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    keep = {one.name: torch.rand(len(one), generator=generator) > rate for one in groups}
    for mask in keep.values():
        mask[-1] = True
    return keep


def same_masked_and_removed(network: nn.Module, groups: list[PruneGroups], *inputs: torch.Tensor) -> torch.Tensor:
    keep, before = random_keep(groups), sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        whole = network(*inputs)
        with masked(groups, keep):
            expected = network(*inputs)
        assert torch.equal(network(*inputs), whole)
        report = remove(network, groups, keep)
        actual = network(*inputs)
    assert not torch.allclose(whole, expected, atol=1e-4)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
    assert report.parameters_before == before > report.parameters_after == sum(p.numel() for p in network.parameters())
    return actual


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg", "qk_norm": True}])
def test_heads_neurons_and_blocks_of_a_timm_vit(options: dict[str, Any]) -> None:
    network = tiny_timm(**options)
    groups = tower_groups(open_image_tower(network), ("head", "neuron"))
    assert [len(one) for one in groups] == [3, 96] * 3
    pixels = torch.randn(2, 3, 16, 16)
    actual = same_masked_and_removed(network, groups, pixels)
    tower = open_image_tower(network)
    torch.testing.assert_close(tower(pixels), actual, atol=2e-5, rtol=1e-4)
    blocks = tower_groups(tower, ("block",))
    keep = {blocks[1].name: torch.tensor([False])}
    with masked(blocks, keep):
        expected = network(pixels)
    remove(network, blocks, keep)
    torch.testing.assert_close(network(pixels), expected, atol=2e-5, rtol=1e-4)
    assert len(network.blocks) == 2


@pytest.mark.parametrize("custom", [False, True])
def test_both_towers_of_an_open_clip_model(custom: bool) -> None:
    model = tiny_clip(custom_text=custom)
    pixels, ids = torch.rand(2, 3, 16, 16), torch.randint(1, 100, (2, 8))
    towers = {"image": (open_image_tower, pixels), "text": (open_text_tower, ids)}
    for side, (opened, inputs) in towers.items():
        encode = model.backbone.encode_image if side == "image" else model.backbone.encode_text
        groups = tower_groups(opened(model.backbone), ("head", "neuron", "block"), side=side)
        keep = random_keep([one for one in groups if one.kind != "block"])
        keep[f"{side}.1.blocks"] = torch.tensor([False])
        with torch.no_grad(), masked(groups, keep):
            expected = encode(inputs)
        remove(model, groups, keep)
        with torch.no_grad():
            torch.testing.assert_close(encode(inputs), expected, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(opened(model.backbone)(inputs), expected, atol=2e-5, rtol=1e-4)
    assert [entry["heads"] for entry in model.config["model_cfg"]["pruned"]["text"]["blocks"]] == [
        int(keep["text.0.heads"].sum())
    ]


def test_channels_of_a_resnet_go_with_their_norms() -> None:
    network = resnet()
    same_masked_and_removed(network, channel_groups(network), torch.randn(2, 3, 64, 64))


@pytest.mark.usefixtures("unchecked_annotations")
def test_channels_of_the_trunk_of_small_and_of_a_flattened_map() -> None:
    from binderclip.models.bundled.architectures import LiteTrunk

    torch.manual_seed(0)
    trunk = LiteTrunk("lite0", output_stride=16).eval()
    same_masked_and_removed(trunk, channel_groups(trunk), torch.randn(1, 3, 32, 32))
    flat = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)
    ).eval()
    groups = channel_groups(flat)
    assert [len(one) for one in groups] == [6]
    same_masked_and_removed(flat, groups, torch.randn(2, 3, 8, 8))


def test_groups_of_a_resnet_are_those_of_torch_pruning() -> None:
    network = resnet()
    graph = torch_pruning.DependencyGraph().build_dependency(network, torch.randn(1, 3, 64, 64))
    names = {module: name for name, module in network.named_modules()}
    peer = set()
    for group in graph.get_all_groups(ignored_layers=[network.fc], root_module_types=(nn.Conv2d, nn.Linear)):
        members = {
            (names[dep.target.module], "in" in dep.handler.__name__)
            for dep, _ in group
            if dep.target.module in names and isinstance(dep.target.module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
        }
        # a batch norm's two sides are one
        peer.add(frozenset((n, i and not isinstance(network.get_submodule(n), nn.BatchNorm2d)) for n, i in members))
    own = {frozenset((names[m.module], m.role == "read") for m in one.members) for one in channel_groups(network)}
    assert own == peer
    assert len(own) == 12


def test_removal_gives_what_torch_pruning_gives() -> None:
    network = resnet()
    twin, pixels = copy.deepcopy(network), torch.randn(2, 3, 64, 64)
    groups = channel_groups(network)
    graph = torch_pruning.DependencyGraph().build_dependency(twin, pixels)
    keep = {}
    for one in groups:
        keep[one.name] = torch.arange(len(one)) % 3 > 0
        module = twin.get_submodule(one.name)
        gone = torch.nonzero(~keep[one.name]).flatten().tolist()
        graph.get_pruning_group(module, torch_pruning.prune_conv_out_channels, idxs=gone).prune()
    remove(network, groups, keep)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), twin(pixels), atol=1e-5, rtol=1e-5)
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in twin.named_parameters()}


def test_neurons_of_a_vit_go_as_with_torch_pruning() -> None:
    network = tiny_timm()
    twin, pixels = copy.deepcopy(network), torch.randn(2, 3, 16, 16)
    groups = tower_groups(open_image_tower(network), ("neuron",))
    graph = torch_pruning.DependencyGraph().build_dependency(twin, pixels)
    keep = {one.name: torch.arange(len(one)) % 4 > 1 for one in groups}
    for one, block in zip(groups, twin.blocks, strict=True):
        gone = torch.nonzero(~keep[one.name]).flatten().tolist()
        graph.get_pruning_group(block.mlp.fc1, torch_pruning.prune_linear_out_channels, idxs=gone).prune()
    remove(network, groups, keep)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), twin(pixels), atol=1e-6, rtol=1e-6)


def test_merged_groups_are_sets_of_neurons_in_an_order() -> None:
    network = tiny_timm(depth=1)
    (neurons,) = tower_groups(open_image_tower(network), ("neuron",))
    order = torch.randperm(96)
    sets = merged_groups(neurons, order, 8)
    assert len(sets) == 8
    one, other = ({neurons.name: torch.ones(n, dtype=torch.bool)} for n in (96, 8))
    one[neurons.name][order[:12]] = False
    other[neurons.name][0] = False
    pixels = torch.randn(2, 3, 16, 16)
    with masked([neurons], one):
        expected = network(pixels)
    with masked([sets], other):
        assert torch.equal(network(pixels), expected)
    remove(network, [sets], other)
    torch.testing.assert_close(network(pixels), expected, atol=1e-5, rtol=1e-5)


def test_tied_and_unsupported_layers_are_named() -> None:
    network = tiny_timm()
    network.blocks[2].mlp.fc1.weight = network.blocks[0].mlp.fc1.weight
    with pytest.raises(NotSupported, match=r"image.2.neurons is tied to image.0.neurons.*a parameter of its own"):
        tower_groups(open_image_tower(network), ("neuron",))
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with pytest.raises(NotSupported, match="runs twice"):
        channel_groups(nn.Sequential(nn.Conv2d(3, 4, 3), conv, conv))
    for layer, word in (
        (nn.GroupNorm(2, 4), "GroupNorm.*through Conv2d, Linear, BatchNorm2d"),
        (nn.Conv2d(4, 4, 3, groups=2), "not depthwise"),
    ):
        with pytest.raises(NotSupported, match=word):
            channel_groups(nn.Sequential(nn.Conv2d(3, 4, 3), layer))
    tied = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 1))
    tied[1].weight = tied[0].weight
    with pytest.raises(NotSupported, match="tied"):
        channel_groups(tied)
    gated = tiny_timm(mlp_layer=timm.layers.GluMlp)
    with pytest.raises(NotSupported, match="no plain MLP"):
        tower_groups(open_image_tower(gated), ("neuron",))


def test_masks_that_do_not_fit_are_refused() -> None:
    network = tiny_timm()
    groups = tower_groups(open_image_tower(network), ("head", "block"))
    with pytest.raises(UsageError, match="keep names 'x'"):
        remove(network, groups, {"x": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(UsageError, match="3 truth values"), masked(groups, {groups[0].name: torch.ones(3)}):
        pass
    with pytest.raises(UsageError, match="at least one head must stay"):
        remove(network, groups, {groups[0].name: torch.zeros(3, dtype=torch.bool)})
    with pytest.raises(UsageError, match="at least one must"):
        remove(network, groups, {one.name: torch.zeros(1, dtype=torch.bool) for one in groups if one.kind == "block"})
    assert [len(one) for one in groups] == [3, 1] * 3
    with pytest.raises(UsageError, match="kinds"):
        tower_groups(open_image_tower(network), ("neurons",))  # type: ignore[arg-type]
