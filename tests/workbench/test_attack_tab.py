"""The tab Attack: what the verb writes, before and after side by side; what cannot be attacked."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import DataError, UsageError

LABELS = "a cat, a cup of coffee, a rocket"


def attack(run: Any, files: Any = None, folder: Any = None, **options: Any) -> Any:
    from binderclip.workbench.tabs.attack import work

    given = {"labels": LABELS, "target": "", "method": "pgd", "eps": 4, "steps": 3, "side": 96, **options}
    return work(run, None if files is None else [str(path) for path in files], folder, **given)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_are_attacked_as_by_the_verb(
    photographs: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    chosen = [photographs / "cat.jpg", photographs / "coffee.jpg"]
    outcome = attack(run_of(), chosen)
    assert [path.name for path in outcome.files] == ["table.csv", "attack.zip"]
    rows = rows_in(outcome.files[0])
    assert [row["image"] for row in rows] == ["cat.jpg", "coffee.jpg"]
    for path in chosen:
        shutil.copy(path, tmp_path)
    # The line of shell writes the same pictures, bit for bit, and so does that of Python.
    command(*lines.words(outcome.again.shell), "--json").json()
    said = rows_in(Path("attack/table.csv"))
    assert [row["attacked"] for row in said] == [row["attacked"] for row in rows]
    with zipfile.ZipFile(outcome.files[1]) as packed:
        ours = {name: packed.read(name) for name in packed.namelist()}
    assert set(ours) == {"cat.png", "cat-difference.png", "coffee.png", "coffee-difference.png"}
    assert all((Path("attack") / name).read_bytes() == content for name, content in ours.items())
    shutil.rmtree("attack")
    lines.python(outcome.again.python, Path.cwd())
    assert all((Path("attack") / name).read_bytes() == content for name, content in ours.items())
    # Three parts each: before, after, the change.
    assert outcome.values[0].count("<img") == 6
    reached = [row["in 8 bits"] for row in rows].count("yes")
    assert outcome.values[0].count(" became ") == reached
    assert f"and on {reached} as they lie in 8-bit files" in outcome.values[1]


def test_the_request_asks_for_the_same(
    photographs: Path, run_of: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = attack(run_of(), [photographs / "cat.jpg"], method="cw", target="a rocket", eps=8)
    shutil.copy(photographs / "cat.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("request.json").write_text(outcome.again.request, encoding="utf-8")
    document = command("attack", "--from", "request.json", "--json").json()
    assert [document[name] for name in ("method", "target", "labels")] == ["cw", "a rocket", LABELS.split(", ")]
    assert document["images"][0]["attacked"] == rows_in(outcome.files[0])[0]["attacked"]
    # What it printed is a request as well, and options beside it win.
    Path("again.json").write_text(json.dumps(document), encoding="utf-8")
    other = command("attack", "--from", "again.json", "--eps", "1/255", "--out", "other", "--json").json()
    assert other["eps"] == pytest.approx(1 / 255)
    assert (other["request"]["target"], other["out"]) == ("a rocket", "other")


def test_a_label_to_reach_and_a_single_step(photographs: Path, run_of: Any, lines: Any) -> None:
    outcome = attack(run_of(), [photographs / "cat.jpg"], target="a rocket", method="fgsm", eps=8)
    assert "towards &#x27;a rocket&#x27;" in outcome.values[1]
    words = lines.words(outcome.again.shell)
    assert words[words.index("--target") + 1] == "a rocket"
    assert "--steps" not in words
    assert re.search(r"fgsm within 8 levels", outcome.values[1])


def test_mistakes_are_said_and_a_broken_picture_is_left_out(photographs: Path, run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose pictures first"):
        attack(run_of())
    with pytest.raises(UsageError, match="two labels or more"):
        attack(run_of(), [photographs / "cat.jpg"], labels="a cat")
    with pytest.raises(UsageError, match="is none of the labels"):
        attack(run_of(), [photographs / "cat.jpg"], target="a dog")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        attack(run_of(), [broken])
    outcome = attack(run_of(), [broken, photographs / "cat.jpg"], steps=1)
    assert outcome.said == "1 picture could not be read."
    assert "<td>broken.png</td>" in outcome.values[1]


def test_from_dropped_pictures_to_what_became_of_them(view: Any, photographs: Path) -> None:
    panel = view.tab("Attack")
    view.drop(panel, photographs / "cat.jpg", photographs / "rocket.jpg")
    assert view.run(panel, "Attack").startswith("type two labels or more")
    panel.get_by_label("Labels, separated by commas").fill(LABELS)
    panel.get_by_role("button", name="How strong, and by which method").click()
    steps = panel.get_by_label("number input for Steps of all but fgsm")
    steps.wait_for()
    view.page.wait_for_timeout(300)  # what was folded takes its values when it is shown
    steps.fill("2")
    steps.blur()
    assert view.run(panel, "Attack").startswith("Done in")
    images = panel.locator(".gallery.triples img")
    assert images.count() == 6
    view.loaded(images.last)
    assert view.look("attack") == []
    assert view.axe() == []
    shell, _ = view.lines(panel)
    given = "cat.jpg rocket.jpg --labels 'a cat,a cup of coffee,a rocket' --steps 2"
    assert shell == f"binderclip attack everyday {given}"
