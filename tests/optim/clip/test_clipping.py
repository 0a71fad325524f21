from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import AutoClip, Clip, CoordinateClip, NormClip, Threshold, ValueClip, ZClip, coefficient


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5, math.inf])
def test_by_tensor_each_tensor_has_its_own_norm(parameters, order):
    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    report = Clip(1.5, granularity="tensor", statistic=order)(params.items())
    for number, (key, p) in enumerate(params.items()):
        norm = torch.linalg.vector_norm(before[key], order)
        torch.testing.assert_close(report.stat[number], norm)
        torch.testing.assert_close(p.grad, before[key] * min(1.0, 1.5 / float(norm)))


def test_by_unit_rows_filters_and_whole_vectors(parameters):
    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    report = Clip(1.0, granularity="unit")(params.items())
    assert report.stat.shape == (4 + 5 + 1 + 1 + 1,)  # filters, rows, and vectors or scalars as one
    for key, p in params.items():
        units = range(len(p)) if key in ("conv", "weight") else [slice(None)]
        for unit in units:
            old = before[key][unit] if p.ndim else before[key]
            new = p.grad[unit] if p.ndim else p.grad
            torch.testing.assert_close(new, old * min(1.0, 1.0 / float(old.norm())))
    torch.testing.assert_close(report.norm, torch.cat([g.flatten() for g in before.values()]).norm())


def test_by_unit_along_another_dimension(parameters):
    weight = parameters(scale=2.0)["weight"]
    before = weight.grad.clone()
    Clip(1.0, granularity="unit", unit_dim=1)([weight])
    expected = before * (1.0 / before.norm(dim=0)).clamp(max=1.0)
    torch.testing.assert_close(weight.grad, expected)


@pytest.mark.parametrize("statistic", ["l2", "max"])
def test_by_group_blocks_share_one_norm(parameters, statistic):
    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    order = {"l2": 2.0, "max": math.inf}[statistic]
    label = {"conv": "image", "weight": "image", "bias": "text", "column": "text", "logit_scale": "scale"}
    report = Clip(0.7, granularity="group", statistic=statistic, groups=label.get)(params.items())
    for number, group in enumerate(("image", "text", "scale")):
        members = [key for key in params if label[key] == group]
        norm = torch.linalg.vector_norm(torch.cat([before[key].flatten() for key in members]), order)
        torch.testing.assert_close(report.stat[number], norm)
        for key in members:
            torch.testing.assert_close(params[key].grad, before[key] * min(1.0, 0.7 / float(norm)))


def test_clamp_by_tensor_uses_each_tensors_limit(parameters):
    class Halve(Threshold):
        def limit(self, reading):
            return reading.stat / 2

    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    Clip(Halve(), granularity="tensor", statistic="max", action="clamp")(params.items())
    for key, p in params.items():
        bound = float(before[key].abs().max()) / 2
        torch.testing.assert_close(p.grad, before[key].clamp(-bound, bound))


def test_memory_goes_by_name_whichever_tensors_have_gradients(parameters, remembering):
    clip = Clip(remembering(), granularity="tensor")
    params = parameters()
    clip(params.items())
    first = dict(zip(clip.report.names, clip.report.stat.tolist(), strict=True))
    params = parameters(scale=100.0, seed=1)
    params["conv"].grad = None
    report = clip(reversed(list(params.items())))
    for name, limit in zip(report.names, report.limit.tolist(), strict=True):
        assert limit == pytest.approx(2 * first[name])
    fresh = {"new": nn.Parameter(torch.ones(3)), **parameters(seed=2)}
    fresh["new"].grad = torch.full((3,), 1e6)
    report = clip(fresh.items())
    assert report.limit[0] == math.inf


def test_weights_are_measured_like_gradients_and_only_when_asked(parameters):
    class Tenth(Threshold):
        def limit(self, reading):
            return 0.1 * reading.weights()

    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    Clip(Tenth(), granularity="tensor")(params.items())
    for key, p in params.items():
        largest = 0.1 * float(p.detach().norm())
        torch.testing.assert_close(p.grad, before[key] * min(1.0, largest / float(before[key].norm())))


def test_gradients_that_need_no_clipping_are_not_written(parameters):
    params = parameters()
    versions = [p.grad._version for p in params.values()]
    for clip in (NormClip(1e3), Clip(1e3, granularity="tensor"), Clip(1e3, granularity="unit")):
        clip(params.items())
    assert [p.grad._version for p in params.values()] == versions
    Clip(float(params["conv"].grad.norm()) * 0.99, granularity="tensor")(params.items())
    assert params["conv"].grad._version > versions[0]


@pytest.mark.parametrize("exclude", ["logit_*", ["logit_scale"], lambda name, tensor: tensor.ndim == 0])
def test_excluded_tensors_neither_count_nor_change(parameters, exclude):
    params, others = parameters(scale=3.0), parameters(scale=3.0)
    kept = params["logit_scale"].grad.clone()
    report = NormClip(1.0, exclude=exclude)(params.items())
    del others["logit_scale"]
    nn.utils.clip_grad_norm_(others.values(), 1.0)
    assert torch.equal(params["logit_scale"].grad, kept)
    assert "logit_scale" not in report.names
    for key, p in others.items():
        assert torch.equal(params[key].grad, p.grad)


def test_a_tied_weight_counts_once(parameters):
    weight = parameters(scale=5.0)["weight"]
    norm = weight.grad.norm()
    torch.testing.assert_close(NormClip(math.inf)([weight, weight]).norm, norm)


def test_the_report_names_what_contributed_most(parameters):
    params = parameters()
    params["bias"].grad *= 100
    report = NormClip()(params.items())
    assert report.names[int(report.tensor_norms.argmax())] == "bias"
    torch.testing.assert_close(report.tensor_norms.norm(), report.norm)


def test_nothing_with_a_gradient_gives_an_empty_report():
    report = NormClip()([nn.Parameter(torch.ones(2))])
    assert float(report.norm) == 0.0
    assert report.names == ()


def test_epsilon_conventions():
    stat, limit = torch.tensor([0.0, 1.0, 2.0]), torch.tensor(1.0)
    add = coefficient(stat, limit, eps=0.5, only_above=False)
    torch.testing.assert_close(add, torch.tensor([1.0, 1 / 1.5, 1 / 2.5]))
    torch.testing.assert_close(coefficient(stat, limit, eps=0.5), torch.tensor([1.0, 1.0, 1 / 2.5]))
    torch.testing.assert_close(coefficient(stat, limit, eps=4.0, eps_mode="max"), torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(coefficient(stat, limit), torch.tensor([1.0, 1.0, 0.5]))


def test_a_sparse_gradient_is_refused_by_name():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(errors.NotSupported, match=r"'table\.weight' has a sparse gradient"):
        NormClip()([("table.weight", table.weight)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": "layer"}, "global, group, tensor, unit, coordinate"),
        ({"statistic": "rms"}, "l2, l1, max"),
        ({"action": "drop"}, "scale, renormalise, clamp, rescale"),
        ({"granularity": "coordinate"}, "goes with action='clamp'"),
        ({"action": "clamp"}, "statistic='max'"),
        ({"eps_mode": "times"}, "add, max"),
    ],
)
def test_choices_that_do_not_exist_or_exclude_each_other(settings, message):
    with pytest.raises(errors.UsageError, match=message):
        Clip(1.0, **settings)


@pytest.mark.parametrize("clip", [ValueClip(0.1), CoordinateClip(0.5)])
def test_a_complex_gradient_is_not_clamped_but_scaled(clip):
    weight = nn.Parameter(torch.tensor([3 + 4j, 0j]))
    weight.grad = weight.detach().clone()
    with pytest.raises(errors.NotSupported, match=r"'phase' has a complex gradient.*NormClip"):
        clip([("phase", weight)])
    torch.testing.assert_close(weight.grad, weight.detach())
    NormClip(1.0)([("phase", weight)])
    torch.testing.assert_close(weight.grad, torch.tensor([0.6 + 0.8j, 0j]))


def test_a_module_stands_for_its_named_parameters():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    for layer in (ours, theirs):
        layer.weight.grad, layer.bias.grad = torch.full((2, 3), 2.0), torch.full((2,), 3.0)
    report = NormClip(1.0, exclude="bias")(ours)
    NormClip(1.0)([theirs.weight])
    assert report.names == ("weight",)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert torch.equal(ours.bias.grad, torch.full((2,), 3.0))


def test_the_state_of_another_kind_of_clip_is_refused():
    with pytest.raises(errors.UsageError, match=r"no '.*': another kind of clip .*AutoClip"):
        AutoClip().load_state_dict(ZClip().state_dict())


def test_wrong_parameters_and_missing_names(parameters):
    with pytest.raises(errors.UsageError, match="item 0 is a str"):
        NormClip()(["weight"])
    with pytest.raises(errors.UsageError, match="goes by name"):
        NormClip(exclude="bias")(parameters().values())
    with pytest.raises(errors.UsageError, match="needs groups="):
        Clip(1.0, granularity="group")(parameters().items())


def test_renormalising_also_lengthens_what_is_short(parameters):
    params = parameters(scale=0.5)
    before = {key: p.grad.clone() for key, p in params.items()}
    params["column"].grad.zero_()
    report = Clip(1.0, granularity="tensor", action="renormalise")(params.items())
    for key, p in params.items():
        expected = torch.zeros(6, 1) if key == "column" else before[key] / before[key].norm()
        torch.testing.assert_close(p.grad, expected)
    assert report.clipped.tolist() == [bool(stat > 1) for stat in report.stat]
    assert (report.scale[report.stat < 1] >= 1).all()
    free = parameters()
    kept = [p.grad.clone() for p in free.values()]
    Clip(math.inf, action="renormalise")(free.items())
    assert all(torch.equal(p.grad, old) for p, old in zip(free.values(), kept, strict=True))


def test_rescaling_multiplies_what_exceeds_the_limit_by_one_factor_per_tensor(parameters):
    params = parameters(scale=2.0)
    before = {key: p.grad.clone() for key, p in params.items()}
    Clip(1.0, granularity="tensor", statistic="max", action="rescale")(params.items())
    for key, p in params.items():
        old = before[key]
        factor = min(1.0, 1.0 / float(old.abs().max()))
        torch.testing.assert_close(p.grad, torch.where(old.abs() > 1, old * factor, old))
