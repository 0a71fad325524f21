"""Panels of figures: a bare axis shows its picture alone, a row all its label maps, a forest plot effects."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from binderclip.errors import UsageError
from binderclip.studies import Check, Row, Table
from binderclip.studies.harness.panels import bare, dot_panels, effects, segmentations


@pytest.mark.parametrize("frame", [True, False])
def test_a_bare_axis_has_no_ticks_no_grid_and_no_frame_where_none_is_wanted(frame: bool) -> None:
    ax = Figure().subplots()
    ax.grid(visible=True)
    ax.plot([0, 1], [0, 1])
    bare(ax, frame=frame)
    assert not len(ax.get_xticks())
    assert not len(ax.get_yticks())
    assert all(spine.get_visible() == frame for spine in ax.spines.values())
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_label_maps_stand_beside_their_picture_and_keep_one_colour_a_class() -> None:
    figure, images = Figure(), torch.rand(2, 3, 4, 5)
    maps = {"truth": torch.randint(3, (2, 4, 5)), "found": torch.full((2, 4, 5), -1)}
    segmentations(figure, images, maps, classes=3)
    assert len(figure.axes) == 2 * 3
    for row in range(2):
        picture, *shown = (ax.get_images()[0] for ax in figure.axes[3 * row : 3 * row + 3])
        assert torch.equal(torch.as_tensor(picture.get_array()), images[row].permute(1, 2, 0))
        for image, labels in zip(shown, maps.values(), strict=True):
            assert torch.equal(torch.as_tensor(image.get_array().data), labels[row])
            assert image.get_clim() == (-1, 2)  # the same label has the same colour in every map
    assert [ax.get_title() for ax in figure.axes] == ["", "truth", "found", "", "", ""]


def test_a_forest_plot_has_the_essential_parts_and_the_rival_with_their_intervals() -> None:
    def check(text: str, **given: Any) -> Check:
        known = {"essential": True, "outcome": "seen", "measured": "", "effect": 0.2, "low": 0.1, "high": 0.4}
        return Check(text, **(known | given))

    figure = Figure()
    checks = [
        check("part"), check("side", essential=False), check("theorem", effect=None, low=None, high=None),
        check("learns", role="precondition", low=None, high=None), check("cheap", essential=False, role="rival"),
    ]  # fmt: skip
    effects(figure, checks)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["part: seen", "cheap: beaten"]
    for ax in figure.axes:
        (bar,) = ax.containers[0].lines[2][0].get_segments()
        assert bar[:, 0].tolist() == pytest.approx([0.1, 0.4])
    with pytest.raises(UsageError, match="no essential part has an interval"):
        effects(Figure(), checks[1:4])


@pytest.mark.parametrize("widths", [None, (3.0, 2.0, 1.0)])
def test_titles_and_names_of_panels_do_not_run_into_one_another(widths: tuple[float, ...] | None) -> None:
    """At the size of every study's figure, whatever the words are."""
    metrics = [f"{name} of a picture, named by an independent classifier of half of them" for name in ("A", "B", "C")]
    methods = [f"method {number} with a name that is much longer than its column" for number in range(4)]
    table = Table([Row(metric, method, 0.5) for metric in metrics for method in methods])
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    dot_panels(*((metric, methods) for metric in metrics), widths=widths)(table, figure)
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1
    for ax in figure.axes:
        assert max(len(line) for label in ax.get_xticklabels() for line in label.get_text().split("\n")) <= 18


def test_panels_of_one_metric_say_which_setting_each_is_of() -> None:
    table = Table([Row(metric, "a", 0.5, setting) for metric in ("error", "time") for setting in ("far", "near")])
    figure = Figure(figsize=(10, 3.6))
    dot_panels(("error", ["a"], "far"), ("error", ["a"], "near"), ("time", ["a"], "far"))(table, figure)
    assert [ax.get_title() for ax in figure.axes] == ["error, far", "error, near", "time"]
