"""`binderclip interpolate` between a model and one that was moved: curve, layers, saved model, mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from binderclip.data import ImageTextDataset, load_data
from binderclip.landscape import InterpolationCurve, interpolate_weights
from binderclip.models import ImageTextModel, load
from binderclip.tasks import interpolate
from binderclip.tasks.verbs.interpolate.request import InterpolateRequest
from binderclip.tasks.verbs.interpolate.result import CHOSEN, HELD, Interpolation, chance_above_line, chance_difference

Command = Callable[..., Any]
OPTIONS = ("--data", "digits", "--split", "all", "--limit", 24, "--points", 3)


@pytest.fixture(scope="module")
def moved(tiny_clip: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights in one block and in the image projection."""
    model = load(str(tiny_clip(2)))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "visual.transformer.resblocks.1" in name or name.endswith("visual.proj"):
                weight.add_(0.5 * torch.randn(weight.shape, generator=g))
    return model.save(tmp_path_factory.mktemp("models") / "moved")


def test_the_best_model_is_saved_and_only_layers_that_differ_are_listed(
    command: Command, tiny_clip: Callable[[int], Path], moved: Path, tmp_path: Path
) -> None:
    page, saved = tmp_path / "page.html", tmp_path / "best"
    found = command(
        "interpolate", tiny_clip(2), moved, *OPTIONS, "--out", page, "--save", saved, "--json"
    ).json()  # fmt: skip
    assert found["alphas"] == [0, 0.5, 1]
    chosen = found["accuracy"]["to choose by"]
    assert chosen[found["alphas"].index(found["best"])] == max(chosen)
    assert {row["layer"].removeprefix("backbone.") for row in found["layers"]} == {
        "visual.transformer.resblocks.1", "visual.proj",
    }  # fmt: skip
    first, second, best = (load(str(place)) for place in (tiny_clip(2), moved, saved))
    expected = interpolate_weights(first, second, found["best"]).state_dict()
    for name, tensor in best.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    written = page.read_text(encoding="utf-8")
    assert written.count("data:image/png") == 2
    assert '"http' not in written, "the page must be readable without a network"


@pytest.fixture(scope="module")
def pictures(tiny_clip: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Whether they are named at random -> 60 pictures in folders of what the model calls them, or of any of these."""
    model, g = strong(tiny_clip(2)), torch.Generator().manual_seed(0)
    colours = torch.rand(60, 1, 1, 3, generator=g) + torch.rand(60, 32, 32, 3, generator=g)
    images = [Image.fromarray(one.numpy()) for one in (127 * colours).byte()]
    words = ["cat", "dog", "red car", "tree", "a house", "sea", "moon", "two birds"]
    with torch.no_grad():
        named = model.similarity(model.encode_image(images), model.encode_text(words)).argmax(1)

    def saved(at_random: bool) -> Path:
        folder = tmp_path_factory.mktemp("pictures")
        order = torch.randperm(60, generator=torch.Generator().manual_seed(1)) if at_random else torch.arange(60)
        for number, (image, word) in enumerate(zip(images, named[order].tolist(), strict=True)):
            (folder / words[word]).mkdir(exist_ok=True)
            image.save(folder / words[word] / f"{number}.png")
        return folder

    return saved


def strong(folder: Path) -> ImageTextModel:
    """A model whose blocks do much more than they do with the weights they begin with."""
    model = load(str(folder))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "resblocks" in name and weight.ndim == 2:
                weight.mul_(30 if "visual.transformer.resblocks.1.mlp.c_proj" in name else 4)
    return model


def error_of_the_block(pair: tuple[Path, Path], folder: Path, weight: float) -> float:
    """Of every second picture, where one block alone is mixed: by plain Python from the two folders."""
    first, second = (load(str(place)) for place in pair)
    state = second.state_dict()
    for name, tensor in first.state_dict().items():
        if "visual.transformer.resblocks.1." in name:
            state[name] = (1 - weight) * tensor + weight * state[name]
    second.load_state_dict(state)
    data = load_data(str(folder))
    assert isinstance(data, ImageTextDataset)
    rows = range(0, len(data), 2)
    with torch.no_grad():
        image = second.encode_image([data[row].image for row in rows])
        named = second.similarity(image, second.encode_text(list(data.classes))).argmax(1).tolist()
    return sum(one != int(data.labels[row]) for one, row in zip(named, rows, strict=True)) / len(rows)


def test_a_layer_whose_neurons_are_in_another_order_breaks_the_way(
    tiny_clip: Callable[[int], Path], pictures: Callable[[bool], Path], tmp_path: Path
) -> None:
    """Both ends are one function, which names every picture right; half of each neuron is none."""
    first, second = strong(tiny_clip(2)), strong(tiny_clip(2))
    mlp = second.backbone.visual.transformer.resblocks[1].mlp  # type: ignore[union-attr, index]
    with torch.no_grad():
        mlp.c_fc.weight.copy_(mlp.c_fc.weight.flip(0))
        mlp.c_fc.bias.copy_(mlp.c_fc.bias.flip(0))
        mlp.c_proj.weight.copy_(mlp.c_proj.weight.flip(1))
        second.backbone.visual.proj.mul_(2)  # type: ignore[union-attr, operator]
    places, folder = (first.save(tmp_path / "first"), second.save(tmp_path / "second")), pictures(False)
    result = interpolate(first=str(places[0]), second=str(places[1]), data=str(folder), points=5, report=False)
    block, projection = result.layers
    assert (block.layer, projection.layer) == ("backbone.visual.transformer.resblocks.1", "backbone.visual.proj")
    error = [error_of_the_block(places, folder, weight) for weight in (0, 0.25, 0.5, 0.75, 1)]
    assert error[0] == error[-1] == 0
    assert block.barrier == pytest.approx(max(error), abs=1e-6)
    assert (block.breaks_the_way, projection.breaks_the_way, projection.barrier) == (True, False, 0)
    assert result.conclusion()[-1].startswith(f"Layers that break the way: {block.layer} (error up to")


def test_two_models_that_name_alike_have_no_barrier_and_no_layer_is_named(
    tiny_clip: Callable[[int], Path], pictures: Callable[[bool], Path], tmp_path: Path
) -> None:
    """A projection of twice the length is the same function, whose barriers a rule of ranks would name all the same."""
    first, second = strong(tiny_clip(2)), strong(tiny_clip(2))
    with torch.no_grad():
        second.backbone.visual.proj.mul_(2)  # type: ignore[union-attr, operator]
        second.backbone.text_projection.mul_(4)  # type: ignore[union-attr, operator]
    places = first.save(tmp_path / "first"), second.save(tmp_path / "second")
    result = interpolate(first=str(places[0]), second=str(places[1]), data=str(pictures(True)), points=5, report=False)
    assert result.height == pytest.approx(0, abs=1e-9)
    assert [(one.barrier, one.breaks_the_way) for one in result.layers] == [(0, False)] * 2
    _, line, layers = result.conclusion()
    assert line.startswith("There it is on the straight line between the ends (+0.000")
    assert layers.startswith("No layer breaks the way: the highest barrier is 0.000")


def test_a_barrier_that_so_few_pictures_could_have_by_chance_names_no_layer(
    command: Command, tiny_clip: Callable[[int], Path], pictures: Callable[[bool], Path], tmp_path: Path
) -> None:
    first, second, g = strong(tiny_clip(2)), strong(tiny_clip(2)), torch.Generator().manual_seed(6)
    with torch.no_grad():
        weight = second.backbone.visual.proj  # type: ignore[union-attr]
        weight.add_(0.3 * torch.randn(weight.shape, generator=g))  # type: ignore[operator, arg-type]
    places = first.save(tmp_path / "first"), second.save(tmp_path / "second")
    options = ("--data", pictures(True), "--points", 5, "--no-report")
    (layer,) = command("interpolate", *places, *options, "--json").json()["layers"]
    assert 0 < layer["barrier"] < layer["must_exceed"]
    done = command("interpolate", *places, *options)
    words = " ".join(done.out.split())
    assert "No layer breaks the way: the highest barrier is" in words
    assert f"on 30 pictures less than {layer['must_exceed']:.3f} may be chance" in words


def between(held: list[float], loss: list[float]) -> Interpolation:
    """Five weights of which 0.5 is chosen, with these figures on the held-out half of 200 pictures."""
    curve = InterpolationCurve(
        torch.linspace(0, 1, 5, dtype=torch.float64),
        {CHOSEN: torch.ones(5).double(), HELD: torch.tensor(loss).double()},
        {CHOSEN: torch.tensor([0.5, 0.6, 0.9, 0.7, 0.5]).double(), HELD: torch.tensor(held).double()},
    )
    request = InterpolateRequest(first="a", second="b", data="c")
    return Interpolation(request, "a", "b", "c", 200, "classes", curve, curve.best(CHOSEN), None, [])


def test_the_height_is_that_of_the_weight_that_was_chosen_on_the_other_half() -> None:
    result = between([0.4, 0.9, 0.45, 0.6, 0.6], [1.0] * 5)
    assert result.height == pytest.approx(-0.05)
    assert result.as_dict()["height"] == pytest.approx(-0.05)
    (_, line) = result.conclusion()
    assert "below the straight line between the ends (-0.050; on 100 pictures less than 0.121 may be chance)" in line
    (_, line) = between([0.4, 0.4, 0.8, 0.6, 0.6], [1.0] * 5).conclusion()
    assert line == "There it is above the straight line between the ends (+0.300)."
    (_, line) = between([0.6, 0.4, 0.6 + 1e-8, 0.6, 0.6], [1.0] * 5).conclusion()
    assert "is on the straight line between the ends (+0.000;" in line
    (first, line) = between([0.4, 0.9, 0.45, 0.6, 0.6], [math.inf, 1, 1, 1, 1]).conclusion()
    assert "is not known" in line
    assert "inf" not in first
    assert math.isnan(between([0.4, 0.9, 0.45, 0.6, 0.6], [1, 1, math.nan, 1, 1]).height)


@pytest.mark.parametrize(("p", "count"), [(0.5, 64), (0.5, 128), (0.1, 64), (0.03, 128)])
def test_a_fraction_lies_within_what_is_said_in_nineteen_samples_of_twenty(p: float, count: int) -> None:
    """By the binomial distribution itself."""
    wrong = np.arange(count + 1)
    within = [abs(k / count - p) <= chance_difference(k / count, count) for k in wrong]
    assert 0.93 < stats.binom.pmf(wrong, count, p)[within].sum() < 0.99


def test_what_is_said_of_the_line_holds_where_the_three_are_of_other_pictures() -> None:
    rng = np.random.default_rng(0)
    for p, ends, weight, count in ((0.5, (0.5, 0.5), 0.5, 64), (0.3, (0.1, 0.6), 0.25, 30)):
        at, first, second = (rng.binomial(count, q, 2000) / count for q in (p, *ends))
        above = at - (1 - weight) * first - weight * second
        expected = p - (1 - weight) * ends[0] - weight * ends[1]
        bounds = [
            chance_above_line(e, (a, b), weight, count) for e, a, b in zip(at, first, second, strict=True)
        ]  # fmt: skip
        assert 0.93 < (np.abs(above - expected) <= bounds).mean() < 0.98


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], moved: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    warmer = load(str(tiny_clip(2)))
    with torch.no_grad():
        warmer.logit_scale.add_(1)
    for words, arguments in {
        "same weights": (tiny_clip(2), tiny_clip(2), "--data", tmp_path / "unread"),
        "give --no-layers": (tiny_clip(2), warmer.save(tmp_path / "warmer"), "--data", tmp_path / "unread"),
        "differ in architecture": (tiny_clip(1), moved),
        "not empty": (tiny_clip(2), moved, "--save", full),
        "nowhere": (tiny_clip(2), moved, "--data", tmp_path / "nowhere"),
        "--points": (tiny_clip(2), moved, "--points", 1),
    }.items():
        done = command("interpolate", *OPTIONS, "--no-report", *arguments)
        assert done.code in (1, 2), words
        assert words in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
    assert (full / "mine.txt").read_text() == "mine"
