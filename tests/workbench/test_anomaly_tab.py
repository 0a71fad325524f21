"""The tab Anomaly: scores as the verb gives them, most suspicious first, with their files; what cannot be inspected."""

from __future__ import annotations

import csv
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory, write_stripes: Callable[..., Path]) -> Path:
    """Three sound pictures to learn from, two more to inspect, and two with a planted defect."""
    return write_stripes(tmp_path_factory.mktemp("mvtec") / "stripes", 3, 2, ("sound-", "whole-", "spot-"))


def inspect(run: Any, files: Any = None, folder: Any = None, sound: Any = None, **options: Any) -> Any:
    from binderclip.workbench.tabs.anomaly import work

    given = {"name": "stripes", "method": "winclip", "state": "", "fine": "", "words": True, "shots": 16, "steps": 25}
    names = None if files is None else [str(path) for path in files]
    return work(run, names, folder, None if sound is None else [str(p) for p in sound], None, **{**given, **options})


def scores_in(path: Path) -> dict[str, str]:
    with path.open() as file:
        return {Path(row["image"]).name: row["score"] for row in csv.DictReader(file)}


def ranked(printed: str) -> list[str]:
    """Names of pictures in the order of a document that was printed."""
    return re.findall(r"'image': PosixPath\('[^']*?([\w-]+\.png)'\)", printed)


def test_dropped_pictures_are_scored_as_by_the_verb(stripes: Path, run_of: Any, command: Any, lines: Any) -> None:
    run = run_of()
    pictures, sound = sorted(stripes.glob("test/*/*.png")), sorted(stripes.glob("train/good/*.png"))
    outcome = inspect(run, pictures, sound=sound)
    table, _, overlays, _ = outcome.files
    assert [path.name for path in outcome.files] == ["scores.csv", "sheet.png", "overlays.zip", "report.html"]
    # The line of shell, on folders `pictures` and `sound`, gives the same scores and overlays.
    for name, paths in (("pictures", pictures), ("sound", sound)):
        Path(name).mkdir()
        for path in paths:
            shutil.copy(path, name)
    assert command(*lines.words(outcome.again.shell)).code == 0
    assert scores_in(table) == scores_in(Path("anomalies/scores.csv"))
    with zipfile.ZipFile(overlays) as packed:
        packed.extractall("unpacked")
    names = {path.name for path in Path("unpacked").iterdir()}
    assert names == {f"{path.stem}-anomaly.png" for path in pictures}
    assert all((Path("unpacked") / name).read_bytes() == (Path("anomalies") / name).read_bytes() for name in names)
    # On the page as in the table: damaged ones first, here.
    order = [Path(name).stem for name in scores_in(table)]
    page = outcome.values[0]
    assert re.findall(r"<figcaption>[0-9]+\. ([\w-]+)\.png", page) == order
    assert {order[0], order[1]} == {"spot-0", "spot-1"}
    assert page.count('class="pair"') == 4
    assert "compared with 3 sound pictures; winclip, small" in page
    # Where they lie on the server is nobody's business.
    assert str(run.folder) not in table.read_text() + page.split("</ul>")[1]


def test_a_folder_that_says_the_truth_is_measured(stripes: Path, run_of: Any, lines: Any, tmp_path: Path) -> None:
    outcome = inspect(run_of(folders=[stripes]), folder=str(stripes))
    assert "<td>image AUROC</td>" in outcome.values[0]
    assert "<td>region overlap (PRO)</td>" in outcome.values[0]
    assert "is damaged" in outcome.values[0]
    # The line of Python ranks them alike.
    assert ranked(lines.python(outcome.again.python, tmp_path)) == list(scores_in(outcome.files[0]))


def test_words_alone_and_words_of_ones_own(stripes: Path, run_of: Any) -> None:
    pictures = sorted(stripes.glob("test/*/*.png"))[1:3]
    plain = inspect(run_of(), pictures)
    own = inspect(run_of(), pictures, state="{} with a stain\n", fine="clean {}", name="cloth")
    assert "compared with words alone" in plain.values[0]
    assert scores_in(plain.files[0]) != scores_in(own.files[0])
    assert "--state '{} with a stain' --sound 'clean {}'" in own.again.shell


def test_a_threshold_tells_which_pass(stripes: Path, run_of: Any) -> None:
    pictures, sound = sorted(stripes.glob("test/*/*.png")), sorted(stripes.glob("train/good/*.png"))
    outcome = inspect(run_of(), pictures, sound=sound, threshold="normal")
    with outcome.files[0].open() as file:
        rows = list(csv.DictReader(file))
    # By the definition of p: what is above every sound picture has the least p there can be, 1 of 4.
    assert [row["result"] for row in rows] == ["fail" if row["p"] == "0.2500" else "pass" for row in rows]
    fails = [row["result"] for row in rows].count("fail")
    assert f"{fails} of 4 pictures fail" in outcome.values[0]
    assert outcome.values[0].count(", fails</span>") == outcome.values[0].count("<td>fail</td>") == fails > 0
    assert outcome.again.shell.endswith("--threshold normal")
    with pytest.raises(UsageError, match=r"give a score such as 0\.4, or normal"):
        inspect(run_of(), pictures, threshold="high")
    with pytest.raises(UsageError, match="needs normal pictures"):
        inspect(run_of(), pictures, threshold="normal")


def test_the_usual_method_is_the_verbs(stripes: Path, run_of: Any) -> None:
    """Sound pictures alone where there are some, else words; the lines say what was chosen, not what came of it."""
    pictures, sound = sorted(stripes.glob("test/*/*.png")), sorted(stripes.glob("train/good/*.png"))
    compared = inspect(run_of(), pictures, sound=sound, method="auto")
    assert "compared with 3 sound pictures; patchcore, lite0" in compared.values[0]
    assert compared.again.shell == "binderclip anomaly pictures --name stripes --normal sound"
    assert compared.again.python.startswith("from binderclip.tasks import anomaly; ")
    words = inspect(run_of(), pictures[1:3], method="auto")
    assert "compared with words alone; winclip, small" in words.values[0]


def test_baselines_stand_on_a_classifier(stripes: Path, run_of: Any, lines: Any, tmp_path: Path) -> None:
    outcome = inspect(run_of(folders=[stripes]), folder=str(stripes), method="padim")
    assert "padim, lite0" in outcome.values[0]
    assert outcome.again.shell == f"binderclip anomaly {stripes} --name stripes --method padim"
    assert ranked(lines.python(outcome.again.python, tmp_path)) == list(scores_in(outcome.files[0]))


def test_large_and_broken_pictures_are_named_and_the_others_done(stripes: Path, run_of: Any, tmp_path: Path) -> None:
    Image.new("L", (12_000, 12_000)).save(tmp_path / "large.png")
    whole = stripes / "test/good/whole-0.png"
    (tmp_path / "broken.png").write_bytes(whole.read_bytes()[:300])
    outcome = inspect(run_of(), [tmp_path / "large.png", tmp_path / "broken.png", whole])
    assert outcome.said == "2 pictures could not be read."
    left_out = outcome.values[0].split("<span>Left out</span>")[1]
    assert "<td>large.png</td><td>large.png has 12000 x 12000 pixels: at most 40 million" in left_out
    assert "<td>broken.png</td>" in left_out
    with pytest.raises(DataError, match=r"large\.png has 12000 x 12000 pixels: at most 40 million"):
        inspect(run_of(), [tmp_path / "large.png"])


def test_mistakes_are_said(stripes: Path, run_of: Any) -> None:
    with pytest.raises(UsageError, match="choose pictures first"):
        inspect(run_of())
    with pytest.raises(UsageError, match="was not opened on"):
        inspect(run_of(), folder=str(stripes))
    pictures = sorted(stripes.glob("test/*/*.png"))
    with pytest.raises(UsageError, match="clap learns from normal pictures"):
        inspect(run_of(), pictures, method="clap")
    with pytest.raises(UsageError, match="--no-words compares with normal pictures alone"):
        inspect(run_of(), pictures, words=False)


def test_from_dropped_pictures_to_the_suspicious_ones(view: Any, stripes: Path) -> None:
    panel = view.tab("Anomaly")
    view.drop(panel, *sorted(stripes.glob("test/*/*.png")))
    view.drop(panel, *sorted(stripes.glob("train/good/*.png")), box=1)
    panel.get_by_label("What the pictures show").fill("stripes")
    assert view.run(panel, "Inspect").startswith("Done in")
    images = panel.locator(".gallery.pairs img")
    assert images.count() == 8
    view.loaded(images.first)
    assert "spot-" in panel.locator(".gallery.pairs figcaption").first.inner_text()
    assert panel.locator(".table-box tbody tr").count() == 4
    assert view.look("anomaly") == []
    assert view.axe() == []
    view.page.locator("body").click(position={"x": 5, "y": 5})
    reached = " | ".join(view.focused(40))
    for name in ("What the pictures show", "Method", "Words and settings", "Inspect", "The report: figures"):
        assert name in reached, reached
    shell, _ = view.lines(panel)
    assert shell == "binderclip anomaly pictures --name stripes --normal sound"
    assert "patchcore, lite0" in panel.inner_text()
