"""The tab that trains: a short run with its curves, its files, and the line that gives it again."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from binderclip.errors import UsageError

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.models import load
from binderclip.train import load_recipe
from binderclip.workbench.tabs import train as tab

SHORT = "evaluation.data=[]\nstage.0.batch_size=16\nstage.0.data=['icons']"


def test_a_short_run_leaves_curves_and_a_model_that_loads(run_of, tmp_path: Path):
    run = run_of()
    outcome = tab.work(run, "scratch-64", "", 0.02, "norm", SHORT, False, "")
    loss, norm, *_ = outcome.values
    assert Path(loss).is_file()
    assert Path(norm).is_file()
    names = [path.name for path in outcome.files]
    assert names[:2] == ["scratch-64-trained-1.zip", "summary.json"]
    import zipfile

    with zipfile.ZipFile(outcome.files[0]) as packed:
        packed.extractall(tmp_path)
    # Also for the other tabs of the page.
    for place in (tmp_path, run.models):
        assert load(str(place / "scratch-64-trained-1")).encode_text(["a cat"]).shape == (1, 256)
    # What the page says to type is the recipe that was carried out.
    words = shlex.split(outcome.again.shell)
    changes = [word for before, word in pairwise(words) if before == "--set"]
    again = load_recipe("scratch-64", set=[*changes, f"clip={words[words.index('--clip') + 1]}"])
    assert again.stage[0].epochs == pytest.approx(0.08)
    assert again.stage[0].clip in ("norm", {"name": "norm"})


def test_figures_are_named_as_people_read_them():
    figures = {"/data/pets/count": 539.0, "/data/pets/image_to_text/R@1": 0.0019, "digits/zero_shot/accuracy": 0.25}
    page = tab._figures(SimpleNamespace(figures=figures, recipe=SimpleNamespace(name="mine"), seconds=3.0))
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in page.split("<tr>")[2:]]
    assert rows == [["pets", "count", "539"], ["pets", "image to text, R@1", "0.002"],
                    ["digits", "zero shot, accuracy", "0.250"]]  # fmt: skip


def test_a_wrong_setting_is_said_before_anything_is_trained(run_of):
    run = run_of()
    with pytest.raises(UsageError, match="lrr"):
        tab.work(run, "scratch-64", "", 1.0, tab.AS_IN_RECIPE, "stage.lrr=1", False, "")
    assert not (run.folder / "run").exists()


def test_a_folder_that_the_workbench_was_not_opened_on_is_refused(run_of, tmp_path: Path):
    with pytest.raises(UsageError, match="was not opened on"):
        tab.work(run_of(), "scratch-64", str(tmp_path), 1.0, tab.AS_IN_RECIPE, "", False, "")


@pytest.mark.parametrize("entry", ["stage.data", "stage.0.data", "data", "evaluation.data"])
@pytest.mark.parametrize(
    "named",
    ["['/etc']", "'/etc'", "[{name = '/etc', split = 'train'}]", "['icons', 'pipe:touch made']", "['icons,/etc']",
     "['http://127.0.0.1:9/x-{000..009}.tar']", "['gs://bucket/x.tar']", "[' /etc ']", "['..']"],
)  # fmt: skip
def test_settings_name_no_other_data_of_this_machine(
    run_of, photographs: Path, monkeypatch: pytest.MonkeyPatch, entry, named
):
    monkeypatch.setattr("binderclip.train.run", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UsageError, match="was not opened on"):
        tab.work(run_of(folders=[photographs]), "scratch-64", "", 1.0, tab.AS_IN_RECIPE, f"{entry}={named}", False, "")


def test_the_data_of_a_page_is_what_the_verb_takes(run_of, labelled: Path, monkeypatch: pytest.MonkeyPatch, command):
    carried_out = []

    def started(recipe, **_):
        carried_out.append(recipe)
        raise UsageError("far enough")

    monkeypatch.setattr("binderclip.train.run", started)
    settings = f"stage.batch_size=4096\nevaluation.every=7\nstage.augment=false\nstage.data=[{str(labelled)!r}]"
    for folder, text in ((str(labelled), settings.rpartition("\n")[0]), ("", settings)):
        with pytest.raises(UsageError, match="far enough"):
            tab.work(run_of(folders=[labelled]), "scratch-64", folder, 1.0, "norm", text, False, "")
    own, named = carried_out
    assert named.stage[0].data[0].name == str(labelled)
    # A tenth is held out, and the batch is made of what is left, as by `train --data`.
    words = ["train", "scratch-64", "--data", labelled, "--check", "--json", "--clip", "norm"]
    for line in settings.splitlines()[:3]:
        words += ["--set", line]
    document = command(*words).json()
    assert {**own.document(), "request": document["request"]} == document
    assert document["evaluation"]["data"][0]["hold_out"] == 0.1


def test_the_lines_are_the_verb_s_with_its_own_data(run_of, labelled: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def carried_out(request):
        asked.append(request)
        raise UsageError("far enough")

    monkeypatch.setattr(tab.train, "run", carried_out)
    with pytest.raises(UsageError, match="far enough"):
        tab.work(run_of(folders=[labelled]), "scratch-64", str(labelled), 0.5, "norm", "seed=1", False, "")
    (request,) = asked
    line = shlex.split(request.replaced(out=None).shell())
    assert line == [
        "binderclip", "train", "scratch-64", "--data", str(labelled), "--set", "seed=1", "--set", "stage.0.epochs=2",
        "--clip", "norm",
    ]  # fmt: skip
