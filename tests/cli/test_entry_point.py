"""Every verb through the installed `binderclip`, with the bundled model: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]
LABELS = "a cat,a cup of coffee,a rocket,a flower,a bicycle"


def test_classify_names_what_photographs_show(installed: Command, pictures: Path, broken: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "photos")
    shutil.copy(broken, folder / "broken.png")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS.split(",")) + "\n")
    # One picture is named twice, by itself and in the folder; one in the folder is broken.
    words = (folder / "cat.jpg", folder, "--labels", f"@{tmp_path / 'labels.txt'}", "--top", 2, "--json")
    done = installed("classify", *words, "--picture", "sheet.png", cwd=tmp_path)
    found = done.json()
    assert found["labels"] == LABELS.split(",")
    best = {Path(entry["image"]).stem: entry["labels"] for entry in found["images"]}
    assert next(iter(best)) == "cat"
    assert {name: labels[0]["label"] for name, labels in best.items()} == {
        "cat": "a cat",
        "coffee": "a cup of coffee",
        "rocket": "a rocket",
        "flower": "a flower",
    }
    assert all(len(labels) == 2 and labels[0]["prob"] >= labels[1]["prob"] > 0 for labels in best.values())
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    assert "skipped 1 file" in done.err
    # Four cards of equal width, one of them filled by the picture, in one row.
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * sheet.height


@pytest.fixture(scope="module")
def indexed(program: Command, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = shutil.copytree(pictures, tmp_path_factory.mktemp("search") / "photos")
    return folder, program("search", "index", folder.name, cwd=folder.parent)


def test_search_index_prints_a_table_and_what_its_scores_are(indexed: tuple[Path, Any]) -> None:
    done = indexed[1]
    assert done.code == 0
    # On a slow machine lines of progress, and one that scores of everyday are no cosines; nothing else.
    (line,) = [line for line in done.err.splitlines() if not line.endswith(" ...")]
    assert line.startswith("scores of pictures for words: cosines less what each side has in common")
    assert done.out.startswith("Index photos/.binderclip: 4 images, model everyday")
    assert "unchanged" in done.out


def test_search_again_encodes_nothing_then_only_what_changed(indexed: tuple[Path, Any], command: Command) -> None:
    def counts() -> list[int]:
        found = command("search", "index", indexed[0], "--json").json()
        return [found[name] for name in ("added", "changed", "unchanged", "removed")]

    folder = shutil.copytree(indexed[0], Path("photos"))
    # A copied index is of the folder it was copied from.
    refused = command("search", "index", folder, "--json")
    assert refused.code == 2
    assert "is of" in refused.err
    assert counts() == [0, 0, 4, 0]
    (indexed[0] / "rocket.jpg").rename(indexed[0] / "moved.jpg")
    assert counts() == [1, 0, 3, 1]
    (indexed[0] / "moved.jpg").rename(indexed[0] / "rocket.jpg")
    assert counts() == [1, 0, 3, 1]


def test_search_query_finds_by_words(program: Command, indexed: tuple[Path, Any], tmp_path: Path) -> None:
    done = program("search", "query", "a cat", "--index", indexed[0], "--json", "--picture", tmp_path / "found.png")
    hits = done.json()["hits"]
    assert Path(hits[0]["image"]) == indexed[0] / "cat.jpg"
    assert len(hits) == 4
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.width > 2 * sheet.height


def test_search_query_finds_by_image(indexed: tuple[Path, Any], command: Command, tmp_path: Path) -> None:
    # A picture of the folder itself is left out; the same one from elsewhere is found.
    words = ("search", "query", indexed[0] / "more" / "flower.jpg", "-i", indexed[0])
    hits = command(*words, "--json").json()["hits"]
    assert len(hits) == 3
    assert "flower.jpg" not in {Path(hit["image"]).name for hit in hits}
    shutil.copy(indexed[0] / "more" / "flower.jpg", tmp_path / "asked.jpg")
    words = ("search", "query", tmp_path / "asked.jpg", "-i", indexed[0], "--top", 1)
    hit = command(*words, "--json").json()["hits"][0]
    assert Path(hit["image"]).name == "flower.jpg"
    assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert "flower.jpg" in command(*words).out


def test_an_interrupted_index_keeps_what_it_did(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    first = folder / "0.bmp"
    Image.open(pictures / "coffee.jpg").resize((24, 24)).save(first)
    # So many that it is still at it when a busy machine lets us look.
    many = 4000
    for number in range(1, many):
        (folder / f"{number}.bmp").write_bytes(first.read_bytes())
    words = [str(Path(sys.executable).parent / "binderclip"), "search", "index", str(folder), "--batch-size", "16"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    data = folder / ".binderclip" / "images.lance" / "data"
    while len(list(data.glob("*"))) < 2 and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    error = running.communicate(timeout=120)[1]
    assert running.returncode == 130, error
    assert "Traceback" not in error
    assert "the same command goes on" in error

    import lancedb

    kept = lancedb.connect(str(folder / ".binderclip")).open_table("images").count_rows()
    assert 16 <= kept < many
    assert kept % 16 == 0


def test_segment_draws_and_numbers_every_pixel(program: Command, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "coffee.jpg"
    words = ("segment", picture, "-l", "cup,spoon", "--background", "table,wall", "--no-legend", "--json")
    found = program(*words, cwd=tmp_path).json()
    assert found["classes"] == ["background", "cup", "spoon"]
    assert sum(found["share"].values()) == pytest.approx(1, abs=1e-6)
    with Image.open(picture) as image, Image.open(tmp_path / found["overlay"]) as overlay:
        assert overlay.size == image.size
        with Image.open(tmp_path / found["label_map"]) as labels:
            assert labels.size == image.size
            numbers = np.asarray(labels)
    for number, name in enumerate(found["classes"]):
        assert (numbers == number).mean() == pytest.approx(found["share"][name], abs=1e-6)


def test_a_legend_goes_below_the_picture(command: Command, pictures: Path) -> None:
    done = command("segment", pictures / "coffee.jpg", "-l", "cup,spoon", "--overlay", "with.png", "--map", "map.png")
    assert done.code == 0
    assert (
        command("segment", pictures / "coffee.jpg", "-l", "cup,spoon", "--no-legend", "--overlay", "plain.png").code
        == 0
    )
    with Image.open("with.png") as legend, Image.open("plain.png") as plain:
        assert legend.width == plain.width
        assert legend.height > plain.height
        assert np.array_equal(np.asarray(legend)[: plain.height], np.asarray(plain))


def test_explain_says_where_and_draws_it(program: Command, command: Command, pictures: Path, tmp_path: Path) -> None:
    picture = pictures / "cat.jpg"
    words = ("explain", picture, "-l", "a cat", "--method", "saliency")
    found = program(*words, "--no-legend", "--json", cwd=tmp_path).json()
    with Image.open(picture) as image, Image.open(tmp_path / found["overlay"]) as overlay:
        assert overlay.size == image.size
        assert np.ptp(np.asarray(overlay).astype(int), axis=2).max() > 100
        x, y = found["peak_xy"]
        # The peak lies in the square that the model sees of a picture that is wider than high.
        assert abs(x - image.width / 2) <= image.height / 2
        assert 0 <= y < image.height
    # Two methods explain one number.
    other = command("explain", picture, "-l", "a cat", "--method", "gradcam", "-o", "gradcam.png", "--json").json()
    assert other["cosine"] == pytest.approx(found["cosine"], abs=1e-5)
    with Image.open("gradcam.png") as gradcam, Image.open(picture) as image:
        assert gradcam.width == image.width
        assert gradcam.height > image.height


def test_a_map_without_evidence_is_not_given_a_place(
    command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from binderclip import explain

    def nothing(model: Any, images: Any, target: str) -> explain.Attribution:
        size = (images[0].height, images[0].width)
        box = explain.engine.placement.Box(0, 0, *size)
        return explain.Attribution((torch.zeros(1, 4, 4),), (box,), size, torch.full((1,), 0.3), "nothing", "relu")

    monkeypatch.setitem(explain.METHODS, "nothing", lambda: nothing)
    words = ("explain", pictures / "cat.jpg", "-l", "a cat", "--method", "nothing")
    assert command(*words, "--json").json()["peak_xy"] is None
    assert "nothing finds no place that speaks for it" in command(*words).out


def test_evaluate_writes_what_it_prints(program: Command, tmp_path: Path) -> None:
    words = (
        "evaluate",
        "small",
        "--data",
        "noto-emoji",
        "--split",
        "val",
        "--limit",
        40,
        "-o",
        "figures.json",
        "--json",
    )
    found = program(*words, "-o", "figures.json", "--json", cwd=tmp_path).json()
    assert found["count"] == 40
    # Chance is 1 in 4 for ten of forty.
    assert found["figures"]["text_to_image/R@10"] > 0.5
    assert json.loads((tmp_path / "figures.json").read_text()) == {"made_by": "binderclip", **found}


@pytest.mark.parametrize(("data", "split"), [("photographs", "test"), ("openmoji", "shift")])
def test_evaluate_takes_held_out_pictures_unless_told(command: Command, data: str, split: str) -> None:
    words = ("evaluate", "small", "--data", data, "--limit", 4, "--json")
    assert command(*words).json()["split"] == split
    assert command(*words, "--split", "all").json()["split"] == "all"


@pytest.fixture(scope="module")
def trained(program: Command, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("train")
    words = ("train", recipe, "--out", "run", "--set", "stage.lr=2e-3", "--clip", "norm", "--json")
    return folder / "run", program(*words, cwd=folder)


def test_train_leaves_a_model_that_other_verbs_open(
    trained: tuple[Path, Any], command: Command, pictures: Path
) -> None:
    out, done = trained
    found = done.json()
    assert found["stages"][0]["steps"] == 6
    assert {path.name for path in (out / "plots").iterdir()} >= {"loss.png", "gradient-norm.png"}
    used = command("classify", pictures / "cat.jpg", "-l", "cat,dog", "-m", out, "--json").json()
    assert used["images"][0]["labels"][0]["label"] in ("cat", "dog")


def test_train_resumes_and_checks(trained: tuple[Path, Any], recipe: Path, command: Command) -> None:
    out = trained[0]
    words = ("train", recipe, "--out", out, "--set", "stage.lr=2e-3", "--clip", "norm")
    before = (out / "model" / "open_clip_model.safetensors").read_bytes()
    assert command(*words, "--resume").code == 0
    assert (out / "model" / "open_clip_model.safetensors").read_bytes() == before
    shown = command("train", "scratch-64", "--check", "--json", "--set", "lr=0.5").json()
    assert shown["stage"][0]["lr"] == 0.5
    assert shown["name"] == "scratch-64"
    assert not Path("runs").exists()


def test_papers_and_reproduce(program: Command) -> None:
    found = program("papers", "gradient", "clipping", "--json").json()
    assert any("clip" in entry["title"].lower() for entry in found)
    unknown = program("reproduce", "p999")
    assert unknown.code == 2
    assert unknown.err.startswith("error: no paper matches 'p999'")
    assert unknown.out == ""


def test_demo_makes_one_page(program: Command, tmp_path: Path) -> None:
    words = ("demo", "--epochs", 0.02, "--pictures", 40, "--out", "page", "--json")
    found = program(*words, cwd=tmp_path).json()
    sections = ["classify", "segment", "search", "explain", "train", "model", "yours"]
    assert list(found["seconds"]) == sections
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    # Pictures first, the curves of training after them, and last what to type for one's own.
    headings = re.findall(r'<h2 id="[^"]*">([^<]+)</h2>', page)
    assert headings == ["Classify", "Segment", "Search", "Explain", "Train", "The model", "Your own pictures"]
    own = page[page.index('<h2 id="your-own-pictures">') :]
    boxes = re.findall(r"<pre>([^<]+)</pre>", own)
    assert [box.split()[1] for box in boxes] == ["segment", "adapt", "search", "workbench"]
    # Whole at any width: what does not fit is folded.
    assert "white-space: pre-wrap" in page
    assert page.count("<img") > 40
    # It can be sent by mail: nothing is loaded from elsewhere.
    assert 'src="http' not in page
    assert page.count("<img") == page.count('src="data:image/png;base64,')


def test_info_lists_versions_devices_and_models(installed: Command) -> None:
    found = installed("info", "--json").json()
    assert found["packages"]["torch"]
    assert found["devices"][0].startswith("cpu")
    assert found["models"]["small"]["parameters"] > 1e6


def test_cache_shows_and_frees(program: Command, command: Command, tmp_path: Path) -> None:
    from binderclip.data import FeatureCache

    # The folder that BINDERCLIP_CACHE names for `command`.
    place = tmp_path / "cache"
    FeatureCache("model", "view", root=place).put(["key"], np.zeros((1, 1000), dtype=np.float32))
    found = program("cache", "info", "--json", BINDERCLIP_CACHE=str(place)).json()
    assert found["root"] == str(place)
    assert found["megabytes"] > 0.003
    assert "model" in command("cache", "info").out
    assert command("cache", "clear", "--json").json()["freed_bytes"] > 4000
    assert command("cache", "info", "--json").json()["views"] == []
    assert command("cache", "clear", "--yes").out == "freed 0.0 MB\n"


def test_the_front_door(installed: Command) -> None:
    bare = installed()
    assert bare.code == 0
    assert bare.out.startswith("binderclip: ")
    listed = installed("--help").out
    verbs = [line.split()[1] for line in listed.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert verbs[:3] == ["classify", "search", "segment"]
    assert {"train", "papers", "cache"} <= set(verbs)
    assert installed("--version").out.startswith("binderclip ")
    unknown = installed("clasify")
    assert unknown.code == 2
    assert "Did you mean 'classify'?" in unknown.err
    for verb in ("classify", "adapt", "locate", "segment", "explain", "evaluate", "train", "papers", "reproduce"):
        shown = installed(verb, "--help")
        assert shown.code == 0
        # Help teaches by example.
        assert f"binderclip {verb} " in shown.out.split("Options")[1] or f" binderclip {verb} " in shown.out


def test_info_fits_on_a_screen_and_all_has_the_figures(command: Command) -> None:
    short, every = command("info").out, command("info", "--all").out
    assert len(short.splitlines()) < 24
    assert all(name in short for name in ("small", "small-b", "lite0", "small-sam", "runs on: cpu"))
    assert "R@1/5/10" not in short
    assert "R@1/5/10" in every
    assert "safetensors" in every


def test_a_query_by_picture_leaves_the_picture_itself_out(command: Command, indexed: tuple[Path, Any]) -> None:
    folder = indexed[0]
    hits = command("search", "query", folder / "cat.jpg", "-i", folder, "--top", 3, "--json").json()["hits"]
    assert len(hits) == 3
    assert "cat.jpg" not in {Path(hit["image"]).name for hit in hits}
    # The same pixels in a file that is none of the folder are a question like any other.
    shutil.copy(folder / "cat.jpg", "asked.jpg")
    hits = command("search", "query", "asked.jpg", "-i", folder, "--top", 4, "--json").json()["hits"]
    assert Path(hits[0]["image"]).name == "cat.jpg"
    assert len(hits) == 4
