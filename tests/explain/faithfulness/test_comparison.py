"""Methods side by side: the table's numbers against single calls, the sheet's cells, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import (
    METHODS,
    OPTIMISED,
    Attribution,
    GradCAM,
    Saliency,
    SmoothGrad,
    attribute_all,
    compare,
    deletion_auc,
    energy_inside,
    insertion_auc,
    parameter_randomisation,
    pixel_perturbation,
    pointing_game,
    remove_and_retrain,
)
from binderclip.explain.engine.placement import whole

METHOD_NAMES = {"saliency": Saliency(), "gradcam": GradCAM(), "smoothgrad": SmoothGrad(n_samples=3)}


def test_numbers_are_those_of_single_calls(conv_net: nn.Module, images: torch.Tensor) -> None:
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, 3:9, 2:8] = True
    found = compare(conv_net, images, 1, methods=METHOD_NAMES, masks=masks, steps=4)
    for name, method in METHOD_NAMES.items():
        maps = method(conv_net, images, 1).maps()
        torch.testing.assert_close(found.attributions[name].maps(), maps)
        deleted = deletion_auc(conv_net, images, 1, maps=maps, steps=4, draws=0).values
        inserted = insertion_auc(conv_net, images, 1, maps=maps, steps=4, draws=0).values
        torch.testing.assert_close(found.scores["deletion"][name], deleted)
        torch.testing.assert_close(found.scores["insertion"][name], inserted)
        torch.testing.assert_close(found.scores["pointing"][name], pointing_game(maps, masks).float())
        torch.testing.assert_close(found.scores["inside"][name], energy_inside(maps, masks))
    table = found.table()
    assert {row["method"] for row in table} == {*METHOD_NAMES, "random map"}
    assert [row["deletion"] for row in table] == sorted(row["deletion"] for row in table)
    row = next(row for row in table if row["method"] == "saliency")
    values = found.scores["inside"]["saliency"].double()
    assert row["inside"] == pytest.approx(float(values.mean()))
    assert row["inside_error"] == pytest.approx(float(values.std()) / len(values) ** 0.5)


def test_shared_passes_are_run_once(conv_net: nn.Module, images: torch.Tensor) -> None:
    seen: list[int] = []
    handle = conv_net.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    try:
        methods = {
            "saliency": Saliency(),
            "gradcam": GradCAM(),
            "mean": SmoothGrad(n_samples=6),
            "square": SmoothGrad(n_samples=6, statistic="mean-square"),
            "variance": SmoothGrad(n_samples=6, statistic="variance"),
        }
        attribute_all(conv_net, images, 1, methods=methods)
    finally:
        handle.remove()
    # The default layer of Grad-CAM is looked for once, on one image; then the clean pass and six noisy copies.
    assert sum(seen) == 1 + len(images) * (1 + 6)


def test_the_sheet_has_a_row_an_image_and_a_column_a_method(conv_net: nn.Module, images: torch.Tensor) -> None:
    found = compare(conv_net, images, 1, methods=METHOD_NAMES, tests=[])
    assert found.scores == {}
    sheet = np.asarray(found.sheet(side=40)).astype(int)
    assert sheet.shape[1] == (len(METHOD_NAMES) + 1) * 48 + 8
    ink = (sheet < 250).any(axis=(1, 2))
    assert int((np.diff(ink.astype(int)) == 1).sum()) >= len(images)
    # The map of the first method really is in the second column.
    overlay = found.attributions["saliency"].overlay((images[0].permute(1, 2, 0) * 255).byte().numpy(), 0)
    cell = sheet[46 : 46 + round(40 * images.shape[2] / max(images.shape[2:])), 56:96]
    shrunk = np.asarray(overlay.resize((cell.shape[1], cell.shape[0]))).astype(int)
    assert np.abs(cell[:, : shrunk.shape[1]] - shrunk).mean() < 25


def test_methods_that_cannot_be_run_are_left_out_only_when_nobody_asked_for_them(images: torch.Tensor) -> None:
    class NoMap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(images[0].numel(), 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    found = compare(NoMap(), images, 1, tests=[])
    assert "gradcam" in found.left_out
    assert "saliency" in found.attributions
    assert not OPTIMISED & set(found.attributions)
    with pytest.raises(Exception, match="no feature map"):
        compare(NoMap(), images, 1, methods=["gradcam"])


def sometimes_blank(images: torch.Tensor, silent: list[int]) -> tuple[Any, torch.Tensor]:
    """A method whose map is all below zero, and so gone after ReLU, on some images; and its maps."""
    maps = torch.rand(len(images), *images.shape[-2:], generator=torch.Generator().manual_seed(7)) + 0.1
    maps[silent] = -maps[silent]
    size = (images.shape[-2], images.shape[-1])
    found = Attribution((maps,), (whole(size),), size, torch.zeros(len(images)), "sometimes", "relu")
    return lambda _model, _images, _target: found, maps.clamp(min=0)


def test_a_blank_map_is_flagged_and_neither_scored_nor_ranked(conv_net: nn.Module, images: torch.Tensor) -> None:
    masks = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    masks[:, :4, :5] = True
    method, maps = sometimes_blank(images, [0, 2])
    never, _ = sometimes_blank(images, [0, 1, 2])
    methods = {"never": never, "sometimes": method, "saliency": Saliency()}
    found = compare(conv_net, images, 1, methods=methods, masks=masks, steps=4)
    for values in found.scores.values():
        assert values["sometimes"].isnan().tolist() == [True, False, True]
        assert bool(values["never"].isnan().all())
        assert not bool(values["saliency"].isnan().any())
    rows = {row["method"]: row for row in found.table()}
    assert {name: row["blank"] for name, row in rows.items()} == {
        "never": 3, "sometimes": 2, "saliency": 0, "random map": 0,
    }  # fmt: skip
    # Its only number is that of the picture it says something about.
    alone = deletion_auc(conv_net, images[1:2], 1, maps=maps[1:2], steps=4, draws=0)
    assert rows["sometimes"]["deletion"] == pytest.approx(alone.mean)
    assert np.isnan(rows["never"]["insertion"])
    # What is blank somewhere comes after what is not, whatever its numbers.
    assert [row["method"] for row in found.table()][2:] == ["sometimes", "never"]
    sheet = np.asarray(found.sheet(side=200)).astype(int)
    height = round(200 * images.shape[2] / max(images.shape[2:]))
    for row in range(3):
        top, left = 46 + row * (height + 30), 8 + 208
        cells = [sheet[top : top + height, left + 208 * k : left + 208 * k + 200] for k in range(3)]
        letters = [int((cell.min(axis=2) > 250).sum()) > 20 for cell in cells]
        assert letters == [True, row != 1, False]


def test_scores_of_maps_leave_blank_ones_out(conv_net: nn.Module, images: torch.Tensor) -> None:
    method, maps = sometimes_blank(images, [1])
    for test in (deletion_auc, insertion_auc):
        area = test(conv_net, images, 1, maps=method, steps=3, draws=0)
        others = [float(test(conv_net, images[[k]], 1, maps=maps[[k]], steps=3, draws=0).mean) for k in (0, 2)]
        assert area.blank.tolist() == [False, True, False]
        assert area.mean == pytest.approx(sum(others) / 2)
        assert area.standard_error == pytest.approx(abs(others[0] - others[1]) / 2, rel=1e-3)
    # The least magnitude: one sign or the other makes no order.
    signs = torch.where(torch.rand(maps.shape, generator=torch.Generator().manual_seed(3)) > 0.5, 1.0, -1.0)
    signs[0] = maps[0]
    kept = pixel_perturbation(conv_net, images, 1, maps=signs, fractions=[0.2], draws=0)
    assert kept.blank.tolist() == [False, True, True]
    torch.testing.assert_close(kept.mean, kept.values[0])
    shuffled = parameter_randomisation(conv_net, images, 1, method=method, layers=["fc"])
    assert shuffled.blank.tolist() == [False, True, False]
    assert shuffled.correlation.isnan().tolist() == [[False, True, False]]
    assert shuffled.mean.tolist() == [1.0]


def test_retraining_counts_blank_maps(images: torch.Tensor) -> None:
    maps = sometimes_blank(images, [1])[1]
    labels = torch.tensor([0, 1, 0])
    table = remove_and_retrain(
        {"sometimes": maps, "flat": torch.ones_like(maps)}, {"sometimes": maps[:1], "flat": maps[:1]},
        (images, labels), (images[:1], labels[:1]), lambda _i, _l, _s: lambda x: torch.zeros(len(x), 2),
        fractions=[0.5], seeds=[0],
    )  # fmt: skip
    assert table.blank == {"sometimes": 1, "flat": 3}


def test_bad_input_is_named(conv_net: nn.Module, images: torch.Tensor) -> None:
    for settings, words in [
        ({"methods": ["salience"]}, f"method 'salience' is unknown; there are {sorted(METHODS)[0]}"),
        ({"methods": []}, "at least one name"),
        ({"tests": ["beauty"]}, "test must be one of deletion, insertion, pointing, inside, got 'beauty'"),
        ({"tests": ["pointing"]}, "needs masks"),
        ({"masks": torch.ones(1, 2, 2, dtype=torch.bool)}, "must be .B, H, W."),
    ]:
        with pytest.raises(UsageError, match=words):
            compare(conv_net, images, 1, **settings)
    with pytest.raises(UsageError, match="methods is empty"):
        attribute_all(conv_net, images, 1, methods={})
