"""The tab Compress: the smaller model of the verb, for the other tabs and to download; what cannot be made smaller."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import DataError, UsageError
from binderclip.models import load

Clip = Callable[[int], Path]


def smaller(run: Any, data: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.compress import FORM, work

    given = {"data": str(data), "target": 0.5, "method": "magnitude", "steps": 0, **options}
    return work(run, *(given.get(name) for name in FORM.names))


def test_the_model_is_that_of_the_verb(
    tiny_clip: Clip, labelled: Path, run_of: Any, command: Any, lines: Any, documents: list[Any], tmp_path: Path
) -> None:
    run = run_of(str(tiny_clip(2)), folders=[labelled])
    outcome = smaller(run, labelled)
    (here,) = documents
    there = command(*lines.words(outcome.again.shell), "--json").json()
    for name in ("groups", "judged", "held_out", "metric", "chance"):
        assert there[name] == here[name], name
    for side in ("before", "after"):
        for name in ("parameters", "gflop", "quality"):
            assert there[side][name] == here[side][name], name
    assert f"<td>{here['after']['parameters']:,}</td>" in outcome.values[0]
    assert outcome.said.startswith("tiny-smaller-1 can be chosen at the top of the page.")
    (archive,) = outcome.files
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for place in (run.models / "tiny-smaller-1", tmp_path / "tiny-smaller-1", there["saved"]):
        model = load(str(place))
        assert sum(weight.numel() for weight in model.parameters()) == here["after"]["parameters"]
        with torch.no_grad():
            torch.testing.assert_close(model.encode_pixels(pixels), load(there["saved"]).encode_pixels(pixels))
    # The next one has a name of its own.
    assert smaller(run, labelled, target="", bits="4").files[0].name == "tiny-smaller-2.zip"
    assert documents[-1]["bits"]["bits"] == 4


def test_what_cannot_be_made_smaller_is_said(tiny_clip: Clip, labelled: Path, photographs: Path, run_of: Any) -> None:
    run = run_of(str(tiny_clip(2)), folders=[labelled, photographs])
    for target, text in ((0, "greater than or equal to 0.01"), (1.2, "less than or equal to 0.99")):
        with pytest.raises(UsageError, match=f"^Target {target}: input should be {text}$"):
            smaller(run, labelled, target=target)
    with pytest.raises(UsageError, match=r"takes nothing out: 20 heads .* raise Neuron sets$"):
        smaller(run, labelled, target=0.05, method="mope")
    with pytest.raises(DataError, match="nothing says what they show"):
        smaller(run, photographs)
    with pytest.raises(UsageError, match=r"^Onnx does not go with Bits 8"):
        smaller(run, labelled, bits="8", onnx=True)
    with pytest.raises(UsageError, match="Sides"):
        smaller(run, labelled, sides=[])
    assert not run.models.exists()


def test_the_smaller_model_is_one_for_every_tab(view: Any, tiny_clip: Clip, labelled: Path, photographs: Path) -> None:
    panel = view.tab("Compress")
    view.choose(view.page, "Model for all tabs", labelled)
    assert "holds no model" in view.run(panel, "Compress")
    view.choose(view.page, "Model for all tabs", tiny_clip(2))
    view.choose(panel, "Data", photographs)
    assert "nothing says what they show" in view.run(panel, "Compress")
    view.choose(panel, "Data", labelled)
    panel.get_by_label("Target").first.fill("0.05")
    assert "Target 0.05 takes nothing out" in view.run(panel, "Compress")
    panel.get_by_label("Target").first.fill("")
    view.choose(panel, "Method", "magnitude")
    assert "tiny-smaller-1 can be chosen" in view.run(panel, "Compress")
    assert panel.locator(".table-box tbody tr").count() == 9
    assert view.look("compress") == []
    assert view.axe() == []
    with view.page.expect_download() as download:
        panel.locator("a[download='tiny-smaller-1.zip']").first.click()
    assert zipfile.is_zipfile(download.value.path())
    view.choose(view.page, "Model for all tabs", "tiny-smaller-1")
    panel = view.tab("Classify")
    view.drop(panel, photographs / "cat.jpg")
    panel.get_by_label("Labels, separated by commas").fill("cat,dog")
    assert view.run(panel, "Classify").startswith("Done in")
    # By the name that it has when it is unpacked, not by where the page keeps it.
    assert "--model tiny-smaller-1" in view.lines(panel)[0]
