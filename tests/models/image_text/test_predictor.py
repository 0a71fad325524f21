from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from binderclip.errors import UsageError
from binderclip.models import Predictor, classifier, load


def test_zero_shot_predictor_is_classify_with_gradients(siglip_folder: Path) -> None:
    model = load(siglip_folder)
    predict = model.predictor(["cat", "dog"], templates="photo")
    x = torch.rand(2, 3, 40, 50, requires_grad=True)
    logits = predict(x)
    assert isinstance(predict, Predictor)
    assert predict.classes == ["cat", "dog"]
    torch.testing.assert_close(logits, model.classify(x.detach(), ["cat", "dog"], templates="photo").logits)
    (gradient,) = torch.autograd.grad(logits[0, 0], x)
    assert float(gradient[0].abs().sum()) > 0
    assert float(gradient[1].abs().sum()) == 0
    flat = model.predictor(["cat", "dog"], templates="photo", scale=1.0)(x)
    assert model.logit_bias is not None
    torch.testing.assert_close((flat - model.logit_bias) * model.scale() + model.logit_bias, logits)


def test_wrapped_network_normalises_and_resizes() -> None:
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=3)
    predict = classifier(net, ["a", "b", "c"], (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 32)
    assert isinstance(predict, Predictor)
    x = torch.rand(2, 3, 32, 32)
    want = net((x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None])
    torch.testing.assert_close(predict(x), want, rtol=1e-4, atol=1e-5)
    assert predict(torch.rand(1, 3, 50, 40)).shape == (1, 3)
    assert not net.training


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("way", ["nearest", "bilinear"])
def test_pictures_are_fitted_the_way_it_is_told(mode: str, way: str) -> None:
    x = torch.rand(1, 3, 20, 40, generator=torch.Generator().manual_seed(0))
    size = {"squash": (10, 10), "shortest": (10, 20), "longest": (5, 10)}[mode]
    options = {} if way == "nearest" else {"antialias": True, "align_corners": False}
    mode_of = {"nearest": "nearest-exact"}.get(way, way)
    whole = torch.nn.functional.interpolate(x, size=size, mode=mode_of, **options)
    want = {"squash": whole, "shortest": whole[..., 5:15], "longest": torch.nn.functional.pad(whole, (0, 0, 2, 3))}
    names = [str(i) for i in range(300)]
    flat = classifier(torch.nn.Flatten(), names, (0, 0, 0), (1, 1, 1), 10, resize_mode=mode, interpolation=way)
    torch.testing.assert_close(flat(x), want[mode].flatten(1), rtol=0, atol=1e-5)


def test_defaults_come_from_timm() -> None:
    net = timm.create_model("mobilenetv3_small_050")
    steps = classifier(net, [str(i) for i in range(1000)]).preprocess
    assert steps.mean == tuple(net.pretrained_cfg["mean"])
    assert steps.size == tuple(net.pretrained_cfg["input_size"][-2:])
    assert classifier(torch.nn.Identity(), ["a"]).preprocess.mean == (0.485, 0.456, 0.406)


def test_wrong_use_is_named(clip_folder: Path, files: list[Path]) -> None:
    predict = load(clip_folder).predictor(["cat"])
    with pytest.raises(UsageError, match="classify"):
        predict(files[0])
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    with pytest.raises(UsageError, match="2 classes"):
        classifier(net, ["a", "b"], size=4)(torch.rand(1, 3, 4, 4))
    with pytest.raises(UsageError, match="empty"):
        classifier(net, [], size=4)
