"""`binderclip anomaly`: scores, files, truth, and what goes wrong."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data.made.examples import write_examples
from binderclip.segment.anomaly import Anomalies, WinCLIP
from binderclip.segment.metrics.anomaly import anomaly_scores

Command = Callable[..., Any]
SIDE = 96


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory, write_stripes: Callable[..., Path]) -> Path:
    """Four pictures to learn from, three more to inspect, three with a planted defect, one file broken."""
    root = write_stripes(tmp_path_factory.mktemp("mvtec") / "stripes", 4, 3)
    (root / "test/spot/broken.png").write_bytes(b"no picture")
    return root


def test_a_labelled_folder_is_scored_measured_and_drawn(command: Command, inspected: Path) -> None:
    done = command(
        "anomaly", inspected, "--method", "winclip", "--name", "stripes", "--npy", "--out", "found", "--json"
    )
    document = done.json()
    assert "broken.png" in done.err
    assert [Path(s["image"]).name for s in document["skipped"]] == ["broken.png"]
    rows = document["images"]
    scores = [row["score"] for row in rows]
    assert len(rows) == 6
    assert scores == sorted(scores, reverse=True)
    assert len(document["normal"]) == 4
    # The whole is what the library says of the same pictures, and its figures those of its own files.
    from binderclip.models import load

    detector = WinCLIP(load("small"), "stripes").fit([Image.open(p) for p in document["normal"]])
    found = detector([Image.open(row["image"]) for row in rows])
    assert np.allclose(scores, found.scores.numpy(), atol=1e-5)
    names = ["test-" + "-".join(Path(row["image"]).with_suffix("").parts[-2:]) for row in rows]
    maps = torch.from_numpy(np.stack([np.load(f"found/{name}.npy") for name in names]))
    assert maps.dtype == torch.float32
    assert torch.allclose(maps, Anomalies(found.scores, found.maps).maps_at((SIDE, SIDE)), atol=1e-5)
    truth = torch.zeros(6, SIDE, SIDE, dtype=torch.bool)
    for i, row in enumerate(rows):
        assert row["damaged"] == (row["kind"] == "spot")
        if row["damaged"]:
            mask = np.asarray(Image.open(inspected / f"ground_truth/spot/{Path(row['image']).stem}_mask.png"))
            truth[i] = torch.from_numpy(mask[..., 0] > 127)
    expected = anomaly_scores(maps, truth, scores=torch.tensor(scores), labels=truth.flatten(1).any(1))
    assert document["masks"] == 3
    assert document["measured"]["image AUROC"] == pytest.approx(expected.image_auroc)
    assert document["measured"]["pixel AUROC"] == pytest.approx(expected.pixel_auroc, abs=2e-3)
    assert document["measured"]["region overlap (PRO)"] == pytest.approx(expected.pro, abs=5e-3)
    assert document["measured"]["image AUROC"] > 0.8
    # One normal picture of four, and the picture itself, is the least share there can be.
    assert min(row["p"] for row in rows) == pytest.approx(1 / 5)
    with Path("found/scores.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["image"] for row in written] == [row["image"] for row in rows]
    assert [Image.open(row["overlay"]).size for row in rows] == [(SIDE, SIDE)] * 6
    page = Path(document["report"]).read_text()
    assert "region overlap (PRO)" in page
    assert "broken.png" in page
    assert page.count("data:image/png") == 7


def test_words_alone_and_words_of_ones_own(command: Command, inspected: Path) -> None:
    words = ("anomaly", inspected / "test" / "spot", "--normal", "none", "--scales", "2", "--most", 1, "--json")
    plain = command(*words).json()
    assert plain["normal"] == []
    assert plain["measured"] is None
    assert [row["p"] for row in plain["images"]] == [None] * 3
    assert [row["overlay"] is None for row in plain["images"]] == [False, True, True]
    own = command(*words, "--state", "{} with a stain", "--sound", "clean {}", "--name", "cloth").json()
    assert [row["score"] for row in own["images"]] != [row["score"] for row in plain["images"]]


def test_the_installed_command_says_what_it_found(program: Command, inspected: Path, tmp_path: Path) -> None:
    done = program("anomaly", inspected, "--name", "stripes", cwd=tmp_path)
    assert (done.code, "skipped 1 file" in done.err) == (0, True)
    assert "4 normal pictures" in done.out
    assert "image AUROC" in done.out
    assert "report anomalies/report.html" in done.out
    assert len(list((tmp_path / "anomalies").glob("*-anomaly.png"))) == 6


def test_clap_learns_from_normal_pictures(command: Command, inspected: Path) -> None:
    few = inspected / "test" / "spot"
    words = ("anomaly", few, "--method", "clap", "--state", "a spot", "--sound", "stripes")
    done = command(*words, "--normal", inspected / "train", "--shots", 1, "--steps", 1, "--json")
    assert "trains its restorer (normal pictures: 1)" in done.err
    rows = done.json()["images"]
    assert [row["p"] for row in rows] == [None] * 3
    assert all(0 < row["score"] <= 1 for row in rows)
    for options, said in [
        (("--normal", "none"), "clap learns from normal pictures"),
        (("--normal", inspected / "train", "--scales", "2"), "clap has none"),
    ]:
        failed = command(*words, *options)
        assert failed.code == 2
        assert said in failed.err
    assert "winclip trains nothing" in command("anomaly", inspected, "--method", "winclip", "--steps", 5).err


def test_the_seed_reaches_all_that_clap_draws(
    command: Command, inspected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.segment.anomaly import restoring

    seeds: list[tuple[str, int]] = []
    for name in ("InformationBottleneckMap", "InpaintingAnomalyDetector"):

        class Watched(getattr(restoring, name)):  # type: ignore[misc]
            kind = name

            def __init__(self, *words: Any, **options: Any) -> None:
                super().__init__(*words, **options)
                seeds.append((self.kind, self.seed))

        monkeypatch.setattr(restoring, name, Watched)
    words = (
        "anomaly",
        inspected / "test/spot",
        "--most",
        0,
        "--method",
        "clap",
        "--normal",
        inspected / "train",
        "--shots",
        1,
    )
    for options, seed in (((), 0), (("--seed", 7), 7)):
        seeds.clear()
        assert command(*words, "--steps", 1, "--state", "a spot", "--sound", "stripes", *options).code == 0
        assert seeds == [("InformationBottleneckMap", seed), ("InpaintingAnomalyDetector", seed)]


def test_pictures_that_serve_as_normal_ones_are_not_scored(command: Command, inspected: Path) -> None:
    words = ("anomaly", inspected, "--normal", inspected / "test/good", "--shots", 2, "--method", "winclip")
    done = command(*words, "--json")
    document = done.json()
    silent = command(*words, "--no-words", "--json")
    # Without words a score is a distance to the nearest normal place: small, where words give about a half.
    assert max(row["score"] for row in silent.json()["images"]) < max(row["score"] for row in document["images"])
    assert "2 of the inspected pictures serve as normal ones" in done.err
    assert sorted(row["kind"] for row in document["images"]) == ["good", "spot", "spot", "spot"]
    assert "2 of 3 normal pictures are used" in done.err


def test_the_report_shows_no_picture_twice(command: Command) -> None:
    Path("parts").mkdir()
    for i in range(26):
        values = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(values).save(f"parts/{i:02}.png")
    rows = command("anomaly", "parts", "--most", 0, "--json").json()["images"]
    page = Path("anomalies/report.html").read_text().split("</nav>")[1]
    most, least = page.split("Most anomalous")[1].split("Least anomalous")
    names = [Path(row["image"]).name for row in rows]
    assert [name for name in names if f"{name}:" in most] == names[:24]
    assert [name for name in names if f"{name}:" in least] == names[24:]
    # The calmest comes first.
    assert least.index(f"{names[25]}:") < least.index(f"{names[24]}:")


def test_nothing_is_made_before_the_options_are_right(command: Command, inspected: Path) -> None:
    bare = inspected / "test" / "spot"
    for options, said in [
        (("--method", "magic"), "--method 'magic' is unknown: one of auto, winclip, clap"),
        (("--method", "magic", "--no-words"), "--method 'magic' is unknown: one of auto, winclip, clap"),
        (("--scales", " , "), "up to ten numbers of patches from 1 to 100"),
        (("--scales", "0"), "numbers of patches"),
        (("--seed", 0), "--seed is that of clap's training; winclip draws nothing"),
        (("--steps", 5), "winclip trains nothing"),
        (("--method", "clap"), "clap learns from normal pictures"),
        (("--size", 100), "multiple of the model's patch, 16"),
        (("--state", "{} and {}"), "more than one {}"),
    ]:
        for normal in ((), ("--normal", "none")):
            done = command("anomaly", bare, *normal, *options, "--out", "made")
            assert (done.code, said in done.err) == (2, True), done.err
            assert not Path("made").exists()


def test_mistakes_are_short(command: Command, inspected: Path, tmp_path: Path) -> None:
    only_bad = tmp_path / "bad"
    only_bad.mkdir()
    (only_bad / "a.png").write_bytes(b"no")
    for words, code, said in [
        (("nowhere",), 2, "there is no folder nowhere"),
        ((inspected, "--normal", "nowhere"), 2, "`none` compares with words alone"),
        ((inspected, "--method", "magic"), 2, "--method 'magic' is unknown: one of auto, winclip"),
        ((inspected, "--scales", "two"), 2, "numbers of patches"),
        ((inspected, "--normal", "none", "--no-words"), 2, "--no-words compares with normal pictures alone"),
        ((inspected, "--method", "clap", "--no-words"), 2, "--no-words is winclip's"),
        ((inspected, "--method", "winclip", "--size", 100), 2, "multiple of the model's patch, 16"),
        ((inspected, "--state", "{} and {}"), 2, "more than one {}"),
        ((inspected / "train", "--normal", inspected / "train"), 2, "none is left"),
        ((only_bad,), 1, "; give another picture"),
        ((inspected, "--normal", only_bad), 1, "none of 1 normal pictures could be read"),
    ]:
        done = command("anomaly", *words)
        assert done.code == code, done.err
        assert said in done.err


def test_what_is_taken_where_no_method_is_named(command: Command, inspected: Path) -> None:
    """Normal pictures alone where there are some; words where there are none, or where they are given."""
    folder = inspected / "test" / "spot"
    many, none = ("--normal", inspected / "train"), ("--normal", "none")
    for options, method, model in [
        (many, "patchcore", "lite0"),
        ((*many, "--seed", 3, "--model", "lite0"), "patchcore", "lite0"),
        (none, "winclip", "small"),
        ((*many, "--state", "{} with a stain"), "winclip", "small"),
        ((*many, "--sound", "clean {}"), "winclip", "small"),
        ((*many, "--scales", "2"), "winclip", "small"),
        ((*many, "--no-words"), "winclip", "small"),
        ((*many, "--model", "small"), "winclip", "small"),
    ]:
        document = command("anomaly", folder, *options, "--most", 0, "--json").json()
        assert (document["method"], document["model"]) == (method, model), options
    named = command("anomaly", folder, *many, "--method", "patchcore", "--most", 0, "--json").json()
    usual = command("anomaly", folder, *many, "--most", 0, "--json").json()
    assert [row["score"] for row in usual["images"]] == [row["score"] for row in named["images"]]


def test_the_help_example_finds_every_planted_defect(command: Command, tmp_path: Path) -> None:
    """The command as it stands in --help, on the wall that ships: each damaged crop above every sound one."""
    write_examples(tmp_path / "examples")
    said = command("anomaly", "--help").out
    assert "binderclip anomaly examples/wall " in " ".join(said.split())
    document = command("anomaly", tmp_path / "examples/wall", "--json").json()
    assert document["measured"]["image AUROC"] == 1.0
    assert document["measured"]["pixel AUROC"] > 0.95


@pytest.mark.parametrize("method", ["patchcore", "padim"])
def test_normal_pictures_alone_find_what_is_planted(command: Command, inspected: Path, method: str) -> None:
    words = ("anomaly", inspected, "--method", method, "--size", SIDE, "--out", "found")
    document = command(*words, "--json").json()
    assert (document["method"], document["model"]) == (method, "lite0")
    assert document["measured"]["image AUROC"] == 1.0
    assert document["measured"]["pixel AUROC"] > 0.9
    assert all(row["p"] is not None for row in document["images"])
    for options, said in [
        (("--state", "{} with a hole"), "--state: " + method + " has neither words nor training"),
        (("--steps", 5), "--steps: " + method),
        (("--no-words",), "--no-words: " + method),
        (("--normal", "none"), "give --normal FOLDER"),
        (("--model", "small"), "there is no vision tower or folder 'small'"),
    ]:
        done = command(*words, *options)
        assert (done.code, said in done.err) == (2, True), done.err


def test_a_threshold_passes_or_fails_pictures(command: Command, inspected: Path) -> None:
    words = ("anomaly", inspected, "--method", "patchcore", "--size", SIDE, "--out", "found")
    scores = {Path(r["image"]).as_posix(): r["score"] for r in command(*words, "--json").json()["images"]}
    ordered = sorted(scores.values())
    between = (ordered[2] + ordered[3]) / 2
    done = command(*words, "--threshold", between)
    assert done.code == 3
    assert "3 of 6 pictures failed" in done.out
    with Path("found/scores.csv").open() as file:
        results = {row["image"]: row["result"] for row in csv.DictReader(file)}
    assert {image: value >= between for image, value in scores.items()} == {
        image: result == "fail" for image, result in results.items()
    }
    assert "FAILS" in Path("found/report.html").read_text()
    # At its own score a picture fails; above all of them every picture passes.
    assert command(*words, "--threshold", repr(ordered[-1] * (1 + 1e-6))).code == 0
    none = command(*words, "--threshold", 1e9)
    assert (none.code, "0 of 6 pictures failed" in none.out) == (0, True)
    # `normal`: the planted defects are above every normal picture.
    held = command(*words, "--threshold", "normal")
    assert held.code == 3
    for options, said in [
        (("--threshold", "high"), "give a score such as 0.4, or normal"),
        (("--threshold", "nan"), "give a score such as 0.4, or normal"),
        (("--threshold", "normal", "--method", "clap"), "which clap cannot: give a number"),
        (("--threshold", "normal", "--method", "winclip", "--normal", "none"), "needs normal pictures"),
    ]:
        refused = command("anomaly", inspected, *options)
        assert (refused.code, said in refused.err) == (2, True), refused.err
