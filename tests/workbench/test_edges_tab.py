"""The tab Edges: maps as by the verb, a network of one's own, what is missing; and in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.vision import DexiNed, save_edge_network


def found(run: Any, files: list[Path], network: str | None = None, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.edges import FORM, work

    given = {
        "method": "sobel",
        "thin": False,
        "sigma": 1.0,
        "window": 512,
        "absolute": False,
        "threshold": "",
        **options,
    }
    return work(run, [str(path) for path in files], None, network, *(given[name] for name in FORM.names))


def test_maps_are_those_of_the_verb_and_a_broken_picture_is_left_out(
    photographs: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    run = run_of(folders=[photographs])
    outcome = found(run, [photographs / "cat.jpg", broken])
    assert outcome.values[0].count("<img") == 2
    assert "<td>broken.png</td>" in outcome.values[1]
    assert outcome.said == "1 picture could not be read."
    assert [path.name for path in outcome.files] == ["edges.csv", "sheet.png", "edges.zip"]
    for path in (photographs / "cat.jpg", broken):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command(*lines.words(outcome.again.shell))
    here, there = (np.asarray(Image.open(folder / "edges" / "cat.png")) for folder in (run.folder, tmp_path))
    assert np.array_equal(here, there)
    assert here.any()
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        found(run, [broken])


def test_an_own_network_is_read_from_the_folders_of_the_page_alone(
    photographs: Path, run_of: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    mine = save_edge_network(DexiNed(2, between=2), tmp_path / "nets" / "mine")
    (tmp_path / "nets" / "none").mkdir()
    run = run_of(folders=[tmp_path / "nets"])
    outcome = found(run, [photographs / "cat.jpg"], str(mine), method="network")
    assert str(mine) in outcome.again.shell
    with pytest.raises(UsageError, match="none holds no edge network"):
        found(run, [photographs / "cat.jpg"], str(tmp_path / "nets" / "none"), method="network")
    with pytest.raises(UsageError, match="choose an Edge network, or another method"):
        found(run, [photographs / "cat.jpg"], None, method="network")
    with pytest.raises(UsageError, match="was not opened on"):
        found(run_of(), [photographs / "cat.jpg"], str(mine), method="network")


def test_dropped_pictures_stand_beside_their_edges(view: Any, photographs: Path) -> None:
    panel = view.tab("Edges")
    view.drop(panel, photographs / "cat.jpg")
    assert view.run(panel, "Find edges").startswith("Done in")
    view.loaded(panel.locator("img").first)
    assert "binderclip edges" in view.lines(panel)[0]
    assert view.look("edges") == []
    assert view.axe() == []
