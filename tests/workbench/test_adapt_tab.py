"""The tab Adapt: the table that fills, the choice of the library, what a stop keeps, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.adapt import load_head
from binderclip.adapt.selection import compare, select_head
from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.models import load

METHODS = ["gda", "nearest-example", "zero-shot"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "adapt-tab-cache"))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Draws that were cross-validated, one entry each."""
    whole, seen = compare.cross_validate, []

    def counted(build: Any, X: Any, names: Any, draw: Any, *rest: Any, **options: Any) -> Any:
        seen.append(draw.seed)
        return whole(build, X, names, draw, *rest, **options)

    monkeypatch.setattr(compare, "cross_validate", counted)
    return seen


def test_the_table_fills_and_the_choice_is_that_of_the_library(
    labelled: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any, lines: Any
) -> None:
    from binderclip.workbench.tabs.adapt import work

    run = run_of(folders=[labelled])
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(run, "show", lambda *values: shown.append(values))
    outcome = work(run, str(labelled), 6, METHODS, 2, 5, False)
    # A row more with every method that is judged, best first.
    assert [values[1].split("<tbody>")[-1].count("<tr>") for values in shown] == [0, 1, 2, 3]
    found = select_head(load("small"), load_data(str(labelled)), shots=6, seeds=2, methods=METHODS)
    places = [outcome.values[1].index(f"<td>{score.name}</td>") for score in found.scores]
    assert places == sorted(places)
    for score in found.scores:
        assert f'<td class="number">{score.accuracy.value:.3f}</td>' in outcome.values[1]
    assert f"Chosen: {found.scores[0].name}." in outcome.values[0]
    assert f"On {len(found.test.probs)} test pictures, looked at once" in outcome.values[0]
    assert 'iframe sandbox title="Report"' in outcome.values[2]
    report, head, figures = outcome.files
    assert "&gt;Confusion&lt;" in outcome.values[2]
    assert ">Confusion<" in report.read_text(encoding="utf-8")
    with zipfile.ZipFile(head) as packed:
        packed.extractall(tmp_path / "head")
    assert load_head(tmp_path / "head").about_["method"] == found.scores[0].name
    # The line of shell gives the same figures.
    assert command(*lines.words(outcome.again.shell), "--no-report").code == 0
    there, here = (json.loads(path.read_text()) for path in (Path("adapt/figures.json"), figures))
    del there["seconds"], here["seconds"]
    assert there == here


def test_a_stop_keeps_what_is_finished_and_the_next_run_goes_on(
    labelled: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch, judged: list[int]
) -> None:
    from binderclip.workbench.jobs import JobStopped
    from binderclip.workbench.tabs.adapt import work

    def stop(*values: Any) -> None:
        if "2 of 3 methods judged" in values[1]:
            raise JobStopped

    run = run_of(folders=[labelled])
    monkeypatch.setattr(run, "show", stop)
    with pytest.raises(JobStopped):
        work(run, str(labelled), 6, METHODS, 2, 5, False)
    assert len(judged) == 4
    judged.clear()
    work(run_of(folders=[labelled]), str(labelled), 6, METHODS, 2, 5, True)
    assert len(judged) == 2
    judged.clear()
    work(run_of(folders=[labelled]), str(labelled), 6, METHODS, 2, 5, False)
    assert len(judged) == 6


def test_what_was_left_out_is_said(labelled: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.adapt.selection.crossval import OverBudget
    from binderclip.workbench.tabs.adapt import work

    whole, calls = compare.cross_validate, []

    def slow(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise OverBudget(99.0)
        return whole(*given, **options)

    monkeypatch.setattr(compare, "cross_validate", slow)
    outcome = work(run_of(folders=[labelled]), str(labelled), 4, ["gda", "zero-shot"], 1, 5, False)
    assert outcome.values[1].count("</td>") == len(
        ("method", "accuracy", "95%", "macro-F1", "calibration", "fit", "trained")
    )
    assert "Left out gda: would need 99 s or more" in outcome.values[0]


def test_pictures_of_several_labels_get_their_own_table(tmp_path: Path, run_of: Any) -> None:
    from binderclip.data import scenes
    from binderclip.workbench.tabs.adapt import work

    folder, table = tmp_path / "scenes", ["file,labels"]
    folder.mkdir()
    made = scenes(0, 24, 64, vocabulary=["cat", "house", "moon"], objects=(1, 2))
    for i in range(24):
        Image.fromarray((made.images[i].permute(1, 2, 0).numpy() * 255).astype("uint8")).save(folder / f"{i}.png")
        table.append(f"{i}.png,{';'.join(sorted(set(made.names[i])))}")
    (folder / "metadata.csv").write_text("\n".join(table))
    outcome = work(run_of(folders=[folder]), str(folder), 4, ["gda", "zero-shot"], 1, 1, False)
    assert '<th scope="col" class=number>mAP</th>' in outcome.values[1]
    assert outcome.values[1].count("<tr>") == 3
    assert "&gt;Labels&lt;" in outcome.values[2]
    assert "print(adapt(data=" in outcome.again.python


@pytest.mark.parametrize(
    ("data", "methods", "said"),
    [
        ("", ["auto"], "choose a folder with one for each class"),
        ("..", ["auto"], "was not opened on"),
        ("/etc", ["auto"], "was not opened on"),
        ("digits", [], "choose methods"),
        ("digits", ["gda", "auto"], "auto stands alone"),
        ("digits", ["gada"], "did you mean 'gda'"),
    ],
)
def test_mistakes_are_said_before_a_model_is_loaded(
    labelled: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch, data: str, methods: list[str], said: str
) -> None:
    from binderclip.workbench.tabs.adapt import work

    run = run_of(folders=[labelled])
    monkeypatch.setattr("binderclip.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match=said):
        work(run, data, 4, methods, 2, 5, False)


def test_from_a_folder_to_a_chosen_head(view: Any, labelled: Path) -> None:
    panel = view.tab("Adapt")
    data = panel.get_by_label("Pictures with labels")
    data.fill(str(labelled))
    data.press("Enter")
    panel.get_by_role("slider", name="Shots: pictures a class to learn from").fill("6")
    methods = panel.get_by_label("Methods", exact=True)
    methods.press("Backspace")
    for name in METHODS:
        methods.fill(name)
        methods.press("Enter")
    methods.press("Escape")
    assert view.run(panel, "Adapt").startswith("Done in")
    panel.get_by_text("Chosen: ").first.wait_for()
    assert panel.locator(".table-box tbody tr").count() == 3
    assert panel.get_by_label("Go on with what is finished").is_checked()
    assert view.look("adapt") == []
    assert view.axe() == []
    panel.locator("details.report summary").click()
    assert panel.frame_locator("iframe").get_by_role("heading", name="Confusion").is_visible()
    shell, _ = view.lines(panel)
    assert shell.startswith("binderclip adapt ")
    assert "--methods gda,nearest-example,zero-shot" in shell
    # Without a way through the disk Classify has it.
    panel = view.tab("Classify")
    view.drop(panel, *sorted((labelled / "zero").iterdir())[-3:])
    panel.get_by_role("button", name="Ways to look, side by side").click()
    panel.get_by_label("the one that Adapt learned on this page").check()
    assert view.run(panel, "Classify").startswith("Done in")
    named = panel.locator(".gallery figure").evaluate_all("all => all.map(each => each.dataset.label)")
    assert len(named) == 3
    assert {*named} <= {"zero", "one", "four"}
    assert "--head adapt" in view.lines(panel)[0]
