"""`binderclip segment` on folders, with settings, and measured."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.cli.shared.output import console
from binderclip.data import LabelledScenes
from binderclip.segment import parts_of
from binderclip.tasks import segment

Command = Callable[..., Any]


def test_a_folder_is_gone_on_with(command: Command, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((72, 48)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    words = ("segment", folder, "-l", "a cat,a cup", "--out", "masks", "--csv", "areas.csv", "--coco", "masks.json")
    words = (*words, "--background", "none", "--model", "small")
    done = command(*words, "--json")
    found = done.json()["images"]
    assert [Path(row["image"]).stem for row in found] == ["cat", "coffee"]
    assert "broken.png" in done.err
    with Path("areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(Path(r["image"]).stem, r["class"]) for r in rows] == [
        ("cat", "a cat"),
        ("cat", "a cup"),
        ("coffee", "a cat"),
        ("coffee", "a cup"),
    ]
    assert sum(int(r["pixels"]) for r in rows) == 2 * 72 * 48
    document = json.loads(Path("masks.json").read_text())
    assert [image["width"] for image in document["images"]] == [72, 72]
    assert sum(a["area"] for a in document["annotations"]) <= 2 * 72 * 48
    # One map is lost, one is kept: only the lost one is made again.
    kept = Path("masks/cat-labels.png").stat().st_mtime_ns
    Path("masks/coffee-labels.png").unlink()
    again = command(*words, "--json")
    assert "1 image done before" in again.err
    assert again.json()["images"] == found
    assert Path("masks/cat-labels.png").stat().st_mtime_ns == kept
    other = command("segment", folder, "-l", "a cat", "--out", "masks")
    assert (other.code, "masks was made with other labels" in other.err) == (2, True)


def test_one_picture_may_have_a_folder_of_its_own(command: Command, pictures: Path) -> None:
    """The same files, table and record as for several."""
    words = ("segment", pictures / "cat.jpg", "-l", "a cat,a cup", "--preset", "plain", "--size", 64)
    done = command(*words, "--out", "one", "--csv", "areas.csv", "--json")
    entry = done.json()
    assert sorted(path.name for path in Path("one").iterdir()) == ["cat-labels.png", "cat-overlay.png", "segment.json"]
    assert Path(entry["label_map"]) == Path("one/cat-labels.png")
    alone = command(*words, "--map", "a.png", "--json").json()
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("one/cat-labels.png")))
    assert alone["share"] == entry["share"]
    assert "1 image done before" in command(*words, "--out", "one").err
    refused = command(*words, "--out", "one", "--map", "b.png")
    assert (refused.code, "leave out --overlay and --map" in refused.err) == (2, True)


def test_settings_change_the_preset(command: Command, pictures: Path) -> None:
    picture = pictures / "cat.jpg"
    plain = command("segment", picture, "-l", "a cat,a cup", "--preset", "plain", "--map", "a.png", "--json")
    words = ("segment", picture, "-l", "a cat,a cup", "--preset", "value", "--map", "b.png", "--json")
    changed = command(
        *words, "-s", "last_block.map=vanilla", "-s", "last_block.residual=true", "-s", "last_block.mlp=true"
    )
    assert plain.json()["share"] == changed.json()["share"]
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))
    for options, said in [
        (("--set", "rule.scal=1"), "ClassRule has no 'scal'; it has scale"),
        (("--set", "colour=1"), "a segmenter's parts are"),
        (("--preset", "magic"), "preset 'magic' is unknown; there are"),
        (("--size", "3"), "below one patch"),
    ]:
        done = command("segment", picture, "-l", "a cat", *options)
        assert done.code == 2
        assert said in done.err
    assert "Missing option '--labels'" in command("segment", picture).err


def test_absurd_sizes_and_labels_come_to_an_end(command: Command, pictures: Path, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    Image.open(pictures / "cat.jpg").resize((64, 48)).save(picture)
    for options, said in [
        (("--size", 999999999), "4096"),
        (("--size", "9" * 400), "4096"),
        (("--size", 0), "greater than or equal to 1"),
        (("--preset", "sclip", "-s", "resolution.size=999999999"), "at most 16384 pixels a side"),
        (("--preset", "sclip", "-s", "resolution.size=" + "9" * 400), "a number of more than 300 digits"),
        (("--preset", "sclip", "-s", "resolution.longest=1e999"), "longest must be a multiple"),
        (("--preset", "sclip", "-s", "resolution.window=1600000000"), "at most 16384 pixels a side"),
        (("--preset", "sclip", "-s", "resolution.size=12000", "-s", "resolution.stride=1"), "at most 100000"),
        (("--preset", "value", "-s", "resolution.size=12000"), "at most 65536"),
    ]:
        done = command("segment", picture, "-l", "cat,dog", *options)
        assert done.code == 2, options
        assert said in done.err
        assert len(done.err) < 1500
    # A name of 5,000 letters is a name; the legend shows how it begins.
    done = command("segment", picture, "-l", f"{'w' * 5000},{'a cat ' * 800}", "--size", 64)
    assert done.code == 0, done.err
    with Image.open("cat-overlay.png") as shown:
        assert shown.width == 64


def test_a_preset_names_its_departures_and_how_to_take_them_back(command: Command) -> None:
    from binderclip.segment import DEPARTURES, PRESETS
    from binderclip.tasks.verbs.segment.presets import chosen_parts

    assert set(DEPARTURES) <= set(PRESETS)
    wanted = {"trident": "small-dino", "cliper": "Stable Diffusion", "corrclip": "SAM 2", "corrclip-sam": "small-sam"}
    listed = command("segment-presets", "--json").json()["presets"]
    assert set(listed) == set(PRESETS)
    for name, word in wanted.items():
        assert word in " ".join(listed[name]["departures"])
        shown = command("segment-presets", name).out
        assert word in shown
        assert "sclip" not in shown
    assert "'pretty'" in command("segment-presets", "pretty").err
    # Whatever setting they name is one that the preset has.
    count = 0
    for name, lines in DEPARTURES.items():
        for line in lines:
            settings = tuple(re.findall(r"--set ([\w.]+=[^\s)]+)", line))
            count += len(settings)
            given = tuple(setting.replace("...", "0.5") for setting in settings)
            chosen_parts([name], given)
    assert count > 15


def test_presets_are_listed_and_measured(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 200)  # so that no head of a column is broken
    listed = command("segment-presets", "all").out
    assert "plain" in listed
    assert "vanilla" in listed
    assert all(name in listed for name in ("itaclip-background", "pamr", "cluster-vote", "flips"))
    found = command("segment-evaluate", "scenes", "--limit", 2, "--preset", "value,plain", "--size", 128, "--json")
    rows = found.json()["presets"]
    assert [row["preset"] for row in rows] == ["value", "plain"]
    assert all(0 < row["miou"] <= 1 for row in rows)
    assert rows[0]["difference"] is None
    low, high = rows[1]["difference"][1:]
    assert low <= rows[1]["difference"][0] <= high
    assert all(0 <= row["ece"] <= 1 and not row["ece_foreground_only"] for row in rows)
    assert "there is no folder nowhere" in command("segment-evaluate", "nowhere").err
    # With words for the ground it is a class, whose edges count and whose confidence does not.
    words = ("segment-evaluate", "scenes", "--limit", 2, "--size", 128, "--background", "wall,paper")
    words = (*words, "--preset", "value")
    row = command(*words, "--json").json()
    assert row["per_class"]["value"]["background"] > 0
    assert 0 < row["presets"][0]["boundary_f"] <= 1
    assert row["presets"][0]["ece_foreground_only"]
    shown = command(*words)
    assert "2 images, 16 classes" in shown.out
    assert all(
        name in shown.out for name in ("boundary F", "ECE", "background left", f"{row['presets'][0]['ece']:.3f}")
    )


@pytest.mark.parametrize("option", ["--task", "--example", "--mask", "--head", "--evaluate", "--list"])
def test_options_that_became_verbs_name_them(command: Command, option: str) -> None:
    verb = segment.request.moved[option]
    for words in ((option, "x"), (f"{option}=x", "-l", "cat")):
        done = command("segment", "photo.jpg", *words)
        said = f"{option} is no option of segment any more: a verb of its own does that, {verb}"
        assert (done.code, said in done.err) == (2, True), done.err
    assert command(verb, "--help").code == 0
    # Behind `--` it is a picture's name.
    assert "there is no file or folder" in command("segment", "-l", "cat", "--", option).err


def label_folder(root: Path, maps: dict[str, np.ndarray]) -> Path:
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for name, labels in maps.items():
        Image.new("RGB", labels.shape[::-1], "teal").save(root / "images" / f"{name}.png")
        Image.fromarray(labels.astype(np.uint8)).save(root / "labels" / f"{name}.png")
    (root / "classes.txt").write_text("wall\ncat\ndog\n")
    return root


def test_label_maps_with_unknown_values_are_named_and_left_out(command: Command, tmp_path: Path) -> None:
    one = np.zeros((20, 30))
    label_folder(tmp_path / "some", {"good": one, "bad": one + 7})
    done = command("segment-evaluate", "some", "--json")
    found = done.json()
    assert found["images"] == 1
    assert [row["image"] for row in found["skipped"]] == ["bad.png"]
    assert "bad.png: value 7 is no class; there are 3 classes (0 to 2)" in found["skipped"][0]["reason"]
    # One true class has no edge, and classes that nobody names are no numbers: JSON has null for both.
    assert found["presets"][0]["boundary_f"] is None
    assert "bad.png: value 7 is no class" in command("segment-evaluate", "some").err
    label_folder(tmp_path / "none", {"bad": one + 7, "worse": one + 9})
    done = command("segment-evaluate", "none")
    assert done.code == 1
    assert "no picture could be measured" in done.err
    assert "bad.png: value 7 is no class; there are 3 classes (0 to 2) and 255" in done.err
    assert "(and 1 more)" in done.err


def test_pictures_of_one_pixel(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "teal").save("dot.png")
    for preset in ("value", "plain", "sclip", "cliper", "decomposition"):
        found = command(
            "segment", "dot.png", "-l", "a cat,a dog", "--preset", preset, "--background", "none", "--json"
        ).json()
        assert sorted(found["share"].values()) == [0, 1]
        assert np.asarray(Image.open("dot-labels.png")).shape == (1, 1)
    label_folder(tmp_path / "dots", {"a": np.ones((1, 1))})
    found = command("segment-evaluate", "dots", "--json").json()["presets"][0]
    assert found["miou"] in (0, 1)
    assert found["boundary_f"] is None


def test_the_default_finds_the_ground(command: Command) -> None:
    """Scenes whose masks are exact: who names what is there gets the things, and not the whole picture."""
    scenes = LabelledScenes("scenes", 4, seed=11, background=True)
    ground: dict[str, list[float]] = {"default": [], "value": []}
    for scene in scenes:
        truth = scene.labels.numpy() == 0
        scene.image.save("scene.png")
        names = [scenes.classes[index] for index in scene.labels.unique().tolist() if index > 0]
        words = ("segment", "scene.png", "-l", ",".join(names), "--map", "map.png", "--model", "small")
        for name, options in (("default", ()), ("value", ("--preset", "value"))):
            assert command(*words, *options).code == 0
            mine = np.asarray(Image.open("map.png")) == 0
            ground[name].append((mine & truth).sum() / (mine | truth).sum())
    assert np.mean(ground["default"]) > 0.75
    assert np.mean(ground["default"]) > np.mean(ground["value"])
    # `none` is what it was before: every pixel is one of the labels.
    assert command(*words, "--preset", "value", "--background", "none").code == 0
    assert np.asarray(Image.open("map.png")).max() < len(names)


def test_photographs_have_a_ground_too(command: Command, pictures: Path) -> None:
    share = command("segment", pictures / "more/flower.jpg", "-l", "flower", "--json").json()["share"]
    assert 0.15 < share["flower"] < 0.5
    # A word for the ground may be a label as well; the others still stand for the ground.
    share = command("segment", pictures / "cat.jpg", "-l", "cat,wall", "--json").json()["share"]
    assert list(share) == ["background", "cat", "wall"]


def test_a_folder_says_where_its_files_went(command: Command, pictures: Path) -> None:
    shown = command("segment", pictures, "-l", "cat,flower", "--size", 64).out
    assert "NAME-overlay.png and NAME-labels.png of each in segments/" in shown
    # A label is said where there is one, however large the ground.
    assert re.search(r"flower.jpg +flower +\d", shown)


def test_the_list_says_what_each_preset_is_for(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.segment import PRESETS, SUMMARIES

    monkeypatch.setattr(console, "width", 120)
    shown = command("segment-presets").out
    rows = dict(re.findall(r"^ ([\w-]+)  +(\S.*?) *$", shown, re.MULTILINE))
    assert set(SUMMARIES) == set(PRESETS)
    assert {name: rows[name] for name in PRESETS} == SUMMARIES
    assert len(shown.splitlines()) < len(PRESETS) + 8


def test_presets_are_compared_on_one_sheet(command: Command, pictures: Path) -> None:
    picture = pictures / "cat.jpg"
    words = ("segment", picture, "-l", "a cat,a cup", "--preset", "value,plain")
    done = command(*words, "--compare", "sheet.png", "--json").json()
    assert set(done["images"][0]["share"]) == {"value", "plain"}
    alone = command("segment", picture, "-l", "a cat,a cup", "--preset", "value", "--json").json()["share"]
    assert done["images"][0]["share"]["value"] == pytest.approx(alone, abs=1e-6)
    with Image.open("sheet.png") as sheet:
        assert sheet.width == 3 * 154 + 4
    for extra, said in [
        (("--map", "a.png"), "names several, each of which gets a folder in --out: leave out --overlay, --map"),
        (("--csv", "a.csv"), "names several, each of which gets a folder in --out: leave out --overlay, --map"),
        (("--compare", "a.jpg"), "the sheet is a PNG"),
        (("--compare", "a.png", "--out", "x"), "--compare writes one sheet"),
        (("--compare", "a.png", "--redo"), "--compare writes one sheet"),
        (("--compare", "none/a.png"), "there is no folder"),
    ]:
        refused = command(*words, *extra)
        assert (refused.code, said in refused.err) == (2, True), refused.err
    empty = command("segment", picture, "-l", "a cat", "--preset", " , ")
    assert (empty.code, "--preset is empty; there are" in empty.err) == (2, True)


def test_several_presets_are_made_at_once_each_in_its_folder(command: Command, pictures: Path, tmp_path: Path) -> None:
    Image.open(pictures / "cat.jpg").resize((96, 64)).save(tmp_path / "cat.png")
    words = ("segment", tmp_path / "cat.png", "-l", "a cat,a cup", "--size", 96)
    done = command(*words, "--preset", "value,vv", "--out", "maps", "--json").json()
    assert [(row["preset"], row["label_map"]) for row in done["images"]] == [
        ("value", "maps/value/cat-labels.png"), ("vv", "maps/vv/cat-labels.png"),
    ]  # fmt: skip
    for row in done["images"]:
        alone = command(*words, "--preset", row["preset"], "--map", "a.png", "--overlay", "b.png", "--json").json()
        assert row["share"] == pytest.approx(alone["share"], abs=1e-3)
        with Image.open("a.png") as one, Image.open(row["label_map"]) as other:
            # Sums over several pictures at once may differ in the last digit, so a pixel on an edge may.
            assert (np.asarray(one) == np.asarray(other)).mean() > 0.999
    # The folder is gone on with: of three presets only the third is made.
    again = command(*words, "--preset", "value,vv,plain", "--out", "maps")
    assert "2 label maps done before" in again.err
    assert Path("maps/plain/cat-labels.png").is_file()
    assert "NAME-labels.png of each in maps/value/, maps/vv/, maps/plain/" in again.out
    told = command(*words, "--preset", "value", "--out", "maps/value", "--background", "wall")
    assert (told.code, "was made with other background" in told.err) == (2, True)


def test_a_preset_that_does_not_fit_costs_its_own_maps_alone(command: Command, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "coffee"):
        Image.open(pictures / f"{name}.jpg").resize((64, 48)).save(folder / f"{name}.png")
    words = ("segment", folder, "-l", "a cat,a cup", "--model", "small-b", "--json")
    done = command(*words, "--preset", "value,dense")
    assert done.code == 1
    document = json.loads(done.out)
    assert [row["preset"] for row in document["images"]] == ["dense", "dense"]
    assert "without attention, which this preset needs" in document["left_out"]["value"]
    assert "left out value: " in command(*words[:-1], "--preset", "value,dense").err
    none = command(*words, "--preset", "value,vv")
    assert (none.code, "without attention, which this preset needs" in none.err) == (1, True)


def test_descriptions_are_mixed_into_the_labels_of_presets_that_weigh_them(command: Command, pictures: Path) -> None:
    words = ("segment", pictures / "coffee.jpg", "-l", "bee,fish,owl", "--size", 128, "-s", "text.alpha=0.9", "--json")
    words = (*words, "--preset", "value", "--background", "none")
    plain = command(*words, "--map", "a.png").json()["share"]
    mixed = command(*words, "--map", "b.png", "--descriptions", "animals").json()["share"]
    Path("own.json").write_text(json.dumps({"bee": ["bee"], "fish": ["fish"], "owl": ["owl"]}))
    # What is said of a label is the label itself: nothing changes.
    same = command(*words, "--map", "c.png", "--descriptions", "own.json").json()["share"]
    # But for pixels where two labels tie: the mean of a vector with itself is rounded.
    assert same == pytest.approx(plain, abs=2e-5)
    assert mixed != pytest.approx(plain, abs=1e-2)
    for options, said in [
        (("--descriptions", "animals"), "clip_dinoiser gives them no weight; add"),
        (("--descriptions", "digits", "--preset", "itaclip"), "no sentences for 'cat', 'dog'"),
        (("--descriptions", "nowhere.json", "--preset", "itaclip"), "neither a shipped set"),
    ]:
        done = command("segment", pictures / "cat.jpg", "-l", "cat,dog", "--model", "small", *options)
        assert (done.code, said in done.err) == (2, True), done.err


def test_a_part_can_be_set_to_none() -> None:
    from binderclip.models import load
    from binderclip.tasks.verbs.segment.presets import build_segmenters, chosen_parts

    chosen = chosen_parts(["itaclip"], ["views=none", "refine=none"])
    built = build_segmenters(chosen, load("small"), background=[], size=64)["itaclip"]
    assert built.parts.views is None
    assert built.parts.refine == ()
    assert built.parts.resolution.size == 64
    assert built.parts.last_block == parts_of("itaclip").last_block


def test_a_convolutional_model_takes_the_dense_preset_alone(command: Command, pictures: Path) -> None:
    words = ("segment", pictures / "cat.jpg", "-l", "a cat,a cup", "--model", "small-b")
    refused = command(*words, "--preset", "value")
    assert (refused.code, "without attention" in refused.err, "--preset dense" in refused.err) == (1, True, True)
    done = command(*words)
    assert done.code == 0, done.err
    assert ", dense, model small-b" in done.out
    assert Path("cat-labels.png").is_file()


def test_one_picture_goes_into_a_folder_that_is_named(command: Command, pictures: Path) -> None:
    words = ("segment", pictures / "coffee.jpg", "-l", "cup,dog", "--out", "made", "--json")
    found = command(*words).json()
    assert (found["overlay"], found["label_map"]) == ("made/coffee-overlay.png", "made/coffee-labels.png")
    assert all(Path(found[name]).is_file() for name in ("overlay", "label_map"))
    assert "1 image done before" in command(*words).err
    refused = command(*words, "--map", "x.png")
    assert (refused.code, "leave out --overlay and --map" in refused.err) == (2, True), refused.err
    # A label map of the user's own is not taken for one that was made before.
    Path("made/segment.json").unlink()
    Image.new("L", (9, 9)).save("made/coffee-labels.png")
    refused = command(*words)
    assert (refused.code, "coffee-labels.png is there already" in refused.err) == (2, True), refused.err
