"""Methods side by side: the table's numbers against single calls, the sheet's cells, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import (
    METHODS,
    OPTIMISED,
    GradCAM,
    Saliency,
    SmoothGrad,
    attribute_all,
    compare,
    deletion_auc,
    energy_inside,
    insertion_auc,
    pointing_game,
)

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


def test_bad_input_is_named(conv_net: nn.Module, images: torch.Tensor) -> None:
    for settings, words in [
        ({"methods": ["salience"]}, f"method 'salience' is unknown; there are {sorted(METHODS)[0]}"),
        ({"methods": []}, "at least one name"),
        ({"tests": ["beauty"]}, "test 'beauty' is unknown"),
        ({"tests": ["pointing"]}, "needs masks"),
        ({"masks": torch.ones(1, 2, 2, dtype=torch.bool)}, "must be .B, H, W."),
    ]:
        with pytest.raises(UsageError, match=words):
            compare(conv_net, images, 1, **settings)
    with pytest.raises(UsageError, match="methods is empty"):
        attribute_all(conv_net, images, 1, methods={})
