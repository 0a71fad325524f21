"""Panels of figures: a bare axis shows nothing but its picture."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from binderclip.studies.harness.panels import bare


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
