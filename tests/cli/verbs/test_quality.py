"""`binderclip quality`: scores and their order, sheet and table, learned contexts, two folders, mistakes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from binderclip.models import ImageTextModel, load
from binderclip.quality import CMMD, PAIRS, BlindQuality, CLIPIQAPlus, PromptQuality, QualiCLIP, frechet_distance

Command = Callable[..., Any]
SIZES = [(40, 48), (40, 48), (64, 33), (24, 24), (90, 40)]


@pytest.fixture(scope="module")
def model(tiny_clip: Callable[[int], Path]) -> Path:
    return tiny_clip(1)


@pytest.fixture(scope="module")
def opened(model: Path) -> ImageTextModel:
    return load(str(model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, each of one colour under a little noise; one that is broken, and one smaller than a patch."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for row, (height, width) in enumerate(SIZES):
        colour = np.array([50 * row, 255 - 50 * row, 120])
        noise = rng.integers(-8, 9, (height, width, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{row}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    Image.new("RGB", (40, 6)).save(folder / "thin.png")
    return folder


def good(folder: Path) -> list[Path]:
    return [folder / f"{row}.png" for row in range(len(SIZES))]


def test_pictures_are_ordered_by_the_score_and_bad_ones_are_named(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("An orange. | A lemon.\n\n", encoding="utf-8")
    files = ("--sheet", tmp_path / "sheet.png", "--csv", tmp_path / "scores.csv", "--pairs", tmp_path / "words.txt")
    words = ("quality", folder, "-m", model, "--scores", "quality,sharpness", "--pair", "Red.", "Green.", *files)
    done = command(*words, "--json")
    found = done.json()
    columns = {name: PAIRS[name] for name in ("quality", "sharpness")}
    columns |= {"Red.": ("Red.", "Green."), "An orange.": ("An orange.", "A lemon.")}
    assert found["pairs"] == {name: list(ends) for name, ends in columns.items()}
    assert found["by"] == "Red."
    metric = PromptQuality(opened, columns)
    wanted = metric.score_files(good(folder)).each
    by_name = {Path(entry["image"]).stem: entry["scores"] for entry in found["images"]}
    for row in range(len(SIZES)):
        assert by_name[str(row)] == pytest.approx(dict(zip(columns, wanted[row].tolist(), strict=True)), abs=1e-5)
    order = [entry["scores"]["Red."] for entry in found["images"]]
    assert order == sorted(order)
    assert sorted(Path(entry["image"]).name for entry in found["skipped"]) == ["broken.png", "thin.png"]
    assert "6 x 40 pixels" in next(e["reason"] for e in found["skipped"] if "thin" in e["image"])
    assert done.code == 0
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == [entry["image"] for entry in found["images"]]
    assert [float(row["Red."]) for row in table] == pytest.approx(order)
    # The middle of every card has the colour of its picture, the worst first.
    with Image.open(tmp_path / "sheet.png") as sheet:
        for place, entry in enumerate(found["images"]):
            row = int(Path(entry["image"]).stem)
            seen = np.asarray(sheet)[54 + 100, 14 + place * 214 + 100].astype(int)
            assert np.abs(seen - [50 * row, 255 - 50 * row, 120]).max() < 12


def test_the_order_can_be_another_column_and_large_pictures_are_reduced(
    command: Command, model: Path, opened: ImageTextModel, folder: Path
) -> None:
    words = ("quality", folder, "-m", model, "--scores", "quality,contrast", "--by", "contrast", "--max-side", 48)
    found = command(*words, "--json").json()
    assert (found["by"], found["reduced"]) == ("contrast", 2)
    metric = PromptQuality(opened, ["quality", "contrast"], longest=48)
    wanted = metric.score_files(good(folder)).each[:, 1]
    assert [Path(e["image"]).stem for e in found["images"]] == [str(row) for row in wanted.argsort().tolist()]
    shown = command(*words)
    assert shown.code == 0
    assert "worst first by contrast" in shown.out
    assert "2 pictures reduced to 48 px" in " ".join(shown.err.split())
    assert "skipped 2 files" in shown.err


def test_a_learned_context_is_a_column_and_orders(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path
) -> None:
    metric = CLIPIQAPlus(opened, n_ctx=2)
    metric.fit(good(folder), [0.1, 0.9, 0.5, 0.2, 0.7], steps=4, lr=0.1, optimizer="adamw")
    path = metric.save_weights(tmp_path / "own.safetensors")
    found = command("quality", folder, "-m", model, "--weights", path, "--scores", "quality", "--json").json()
    assert found["by"] == "learned"
    wanted = metric.score_files(good(folder)).total.tolist()
    by_name = {Path(entry["image"]).stem: entry["scores"]["learned"] for entry in found["images"]}
    assert [by_name[str(row)] for row in range(len(SIZES))] == pytest.approx(wanted, abs=1e-5)
    values = [entry["scores"]["learned"] for entry in found["images"]]
    assert values == sorted(values)


def test_two_folders_are_compared_by_both_distances(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path
) -> None:
    for row in range(4):
        Image.new("RGB", (40, 40), (200, 40 * row, 90)).save(tmp_path / f"{row}.png")
    found = command("quality", folder, "--against", tmp_path, "-m", model, "--json").json()
    ours = opened.encode_image([folder / "thin.png" if row == 5 else folder / f"{row}.png" for row in range(6)])
    theirs = opened.encode_image([tmp_path / f"{row}.png" for row in range(4)])
    metric = CMMD()
    metric.update(ours, real=False)
    metric.update(theirs, real=True)
    assert (found["count"], found["against"]) == (6, 4)
    distances = found["distances"]
    assert distances["CMMD"]["value"] == pytest.approx(float(metric.compute()), rel=1e-4)
    low, high = distances["CMMD"]["interval"]
    assert low < high
    assert 0 < distances["CMMD"]["p_value"] <= 1
    with pytest.warns(UserWarning, match="singular"):
        wanted = float(frechet_distance(theirs, ours))
    assert distances["FID"]["value"] == pytest.approx(wanted, rel=1e-3)
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    shown = command("quality", folder, "--against", tmp_path, "-m", model)
    assert "6 pictures against 4" in shown.out
    same = command("quality", tmp_path, "--against", tmp_path, "-m", model, "--json").json()
    assert same["distances"]["CMMD"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--scores", "nonsense"), 2, "--scores 'nonsense' is unknown"),
        (("--scores", "quality", "--by", "sharpness"), 2, "--by 'sharpness' is no column"),
        (("--pair", "Red.", " "), 2, "--pair is empty"),
        (("--pair", "quality", "worse"), 2, "a column 'quality' already"),
        (("--pairs", "none.txt"), 2, "there is no file none.txt"),
        (("--pairs", "three.txt"), 2, "three.txt, line 1"),
        (("--weights", "three.txt"), 1, "cannot be read as weights"),
        (("--against", ".", "--by", "quality"), 2, "--by is about single pictures"),
        (("--against", "alone"), 1, "--against: 1 of 1 file could be read: a distance needs two pictures"),
        (("--sheet", "sheet.txt"), 2, "a picture's name ends in"),
        (("--csv", "nowhere/scores.csv"), 2, "there is no folder nowhere"),
    ],
)
def test_mistakes_are_named(
    command: Command, model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("three.txt").write_text("a | b | c\n", encoding="utf-8")
    Path("alone").mkdir()
    Image.new("RGB", (40, 40)).save("alone/1.png")
    done = command("quality", folder, "-m", model, *words)
    assert done.code == code, done.err
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_nothing_that_can_be_read_fails(command: Command, model: Path, folder: Path) -> None:
    done = command("quality", folder / "broken.png", folder / "thin.png", "-m", model)
    assert done.code == 1
    assert "skipped 2 files" in done.err
    # Of scores that there are none of nothing is explained.
    assert "comes from" not in command("quality", folder / "broken.png").err


def test_weights_of_qualiclip_are_a_column_and_orders(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path
) -> None:
    metric = QualiCLIP(opened, parts=["*bias"])
    metric.fit(good(folder)[:3], steps=2, crop=24, lr=0.05)
    path = metric.save_weights(tmp_path / "own.safetensors")
    found = command("quality", folder, "-m", model, "--weights", path, "--scores", "quality", "--json").json()
    assert (found["by"], found["quality_weights"]) == ("learned", None)
    wanted, plain = metric.score_files(good(folder)).total, PromptQuality(opened, ["quality"]).score_files(good(folder))
    by_name = {Path(entry["image"]).stem: entry["scores"] for entry in found["images"]}
    rows = [by_name[str(row)] for row in range(len(SIZES))]
    assert [row["learned"] for row in rows] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert [row["quality"] for row in rows] == pytest.approx(plain.total.tolist(), abs=1e-5)
    assert "faults" not in found["images"][0]
    values = [entry["scores"]["learned"] for entry in found["images"]]
    assert values == sorted(values)


def test_weights_of_blind_quality_are_a_column_with_any_model(
    command: Command, model: Path, folder: Path, tmp_path: Path
) -> None:
    metric = BlindQuality(hidden=4)
    metric.fit(good(folder)[:3], views=3, steps=3, sides=(32, 40))
    path = metric.save_weights(tmp_path / "own.safetensors")
    found = command("quality", folder, "-m", model, "--weights", path, "--scores", "quality", "--json").json()
    assert found["by"] == "learned"
    by_name = {Path(entry["image"]).stem: entry["scores"]["learned"] for entry in found["images"]}
    wanted = metric.score_files(good(folder))
    assert [by_name[str(row)] for row in range(len(SIZES))] == pytest.approx(wanted.total.tolist(), abs=1e-5)
    faults = {Path(entry["image"]).stem: list(entry["faults"].values()) for entry in found["images"]}
    assert list(found["images"][0]["faults"]) == wanted.names
    assert faults["0"] == pytest.approx((1 - wanted.each[0]).tolist(), abs=1e-5)


def test_small_orders_by_bundled_weights_and_its_words_are_called_what_they_are(
    command: Command, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)  # no two neighbours are equal
    for row in range(2):
        Image.fromarray(noise[row]).save(tmp_path / f"{row}.png")
    paths = sorted(tmp_path.glob("*.png"))
    found = command("quality", tmp_path, "--scores", "quality,sharpness", "--json").json()
    assert found["quality_weights"] == "lite0-quality"
    tuned, words = BlindQuality.from_weights(), PromptQuality("small", ["sharpness"])
    scores = {Path(entry["image"]).name: entry["scores"] for entry in found["images"]}
    assert [scores[path.name]["quality"] for path in paths] == pytest.approx(tuned(paths).tolist(), abs=1e-5)
    assert [scores[path.name]["sharpness"] for path in paths] == pytest.approx(words(paths).tolist(), abs=1e-5)
    done = command("quality", tmp_path, "--csv", tmp_path / "scores.csv")
    strengths = found["images"][0]["faults"]
    worst = max(strengths, key=strengths.get)
    head, first, *_ = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert head == "image,quality,fault", "words that it does not know are no columns unless they are asked for"
    assert first.endswith(f",{worst} {strengths[worst]:.2f}")
    assert f"{worst} {strengths[worst]:.2f}" in " ".join(done.out.split())
    said = " ".join(done.err.split())
    assert "quality comes from lite0-quality, which learned on photographs that were damaged for it" in said
    assert "does not know what these words mean" not in said
    assert "words of small" not in said
    both = " ".join(command("quality", tmp_path, "--scores", "quality,sharpness").err.split())
    assert "sharpness: words of small" in both
    other = " ".join(command("quality", tmp_path, "--scores", "sharpness").err.split())
    assert "small does not know what these words mean on photographs" in other
    assert "--model open_clip:RN50/openai" in other
    own = " ".join(command("quality", tmp_path, "--pair", "A cup.", "A saucer.", "--scores", "sharpness").err.split())
    assert "small is weak on photographs" in own
    assert "near chance" not in own


def test_a_fault_orders_strongest_first(command: Command, pictures: Path, tmp_path: Path) -> None:
    """Three photographs, one blurred and one darkened: each fault puts its own first, words of blur do not."""
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"):
        with Image.open(pictures / name) as opened:
            picture = opened.convert("RGB")
        if name == "cat.jpg":
            picture = picture.filter(ImageFilter.GaussianBlur(4))
        if name == "coffee.jpg":
            picture = picture.point(lambda value: value // 6)
        picture.save(folder / name, quality=95)
    for fault, first in (("exposure", "coffee.jpg"), ("blur", "cat.jpg")):
        found = command("quality", folder, "--by", fault, "--json").json()
        assert found["by"] == fault
        names = [Path(entry["image"]).name for entry in found["images"]]
        strengths = [entry["faults"][fault] for entry in found["images"]]
        assert names[0] == first
        assert strengths == sorted(strengths, reverse=True)
    printed = command("quality", folder, "--by", "blur", "--sheet", tmp_path / "worst.png").out
    assert f"blur {found['images'][0]['faults']['blur']:.2f}" in " ".join(printed.split())
    misspelled = command("quality", folder, "--by", "blurr")
    assert "--by 'blurr' is no column or fault: one of quality, noise, blur," in " ".join(misspelled.err.split())
    refused = command("quality", folder, "--scores", "sharpness", "--by", "blur")
    assert (refused.code, "--by blur needs the column quality of small" in " ".join(refused.err.split())) == (2, True)


def test_everyday_reads_words_of_damage_by_the_tower_of_small(command: Command, pictures: Path, tmp_path: Path) -> None:
    """Its classifier knows things and no faults, so that the column `quality` comes from where `small` has it from."""
    shutil.copy(pictures / "cat.jpg", tmp_path)
    found = [
        command("quality", tmp_path, "--scores", "quality,sharpness", "--model", name, "--json").json()
        for name in ("everyday", "small")
    ]
    assert found[0]["quality_weights"] == "lite0-quality"
    entries = [answer["images"][0] for answer in found]
    assert entries[0]["scores"]["quality"] == entries[1]["scores"]["quality"]
    assert entries[0]["faults"] == entries[1]["faults"]
    said = " ".join(command("quality", tmp_path, "--scores", "sharpness", "--model", "everyday").err.split())
    assert "everyday does not know what these words mean on photographs" in said
