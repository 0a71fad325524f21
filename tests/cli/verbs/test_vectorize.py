"""`binderclip vectorize`: drawings of odd and ordinary pictures, their error and background, runs cut short."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.metrics import peak_signal_noise_ratio

from binderclip.data import to_tensor
from binderclip.generate import BezierPaths
from binderclip.generate import vectorize as draw_again
from binderclip.generate.draw.vector.svg import hex_colour
from binderclip.tasks import vectorize
from binderclip.tasks.events import Counted, Event, Previewed
from binderclip.tasks.files.maker import is_ours
from binderclip.tasks.verbs.draw.growing import Looks

Command = Callable[..., Any]


def disc(path: Path, size: tuple[int, int] = (48, 32), ground: object = (250, 220, 90), mode: str = "RGB") -> Path:
    """A dark disc on a plain ground."""
    picture = Image.new(mode, size, ground)  # type: ignore[arg-type]
    x, y, r = size[0] / 2, size[1] / 2, min(size) / 3
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=(40, 60, 120, 255)[: len(mode)])
    picture.save(path)
    return path


def test_several_pictures_are_drawn_and_a_broken_one_is_counted(command: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    disc(tmp_path / "in" / "disc.png")
    Image.open(tmp_path / "in" / "disc.png").resize((240, 160)).save(tmp_path / "in" / "large.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG no more")
    done = command("vectorize", "in", "--paths", 2, "--steps", 40, "--side", 48, "--out", "made", "--json")
    document = done.json()
    assert done.code == 0
    assert [Path(each["image"]).name for each in document["skipped"]] == ["broken.png"]
    assert "skipped 1 file" in done.err
    rows = {Path(row["image"]).stem: row for row in document["pictures"]}
    assert rows["large"]["size"] == [240, 160]
    assert rows["large"]["drawn_at"] == [48, 32]
    for name, row in rows.items():
        source, drawing = (np.asarray(Image.open(p).convert("RGB")) for p in (f"in/{name}.png", row["png"]))
        assert drawing.shape == source.shape
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(source, drawing), abs=0.1)
        assert row["psnr"] > row["psnr_background"] + 5
        assert row["background"] == "#fadc5a"
        text = Path(row["svg"]).read_text()
        assert f'viewBox="0 0 {source.shape[1]} {source.shape[0]}"' in text
        assert re.findall(r'<g id="level-(\d)">', text) == ["1", "2"]
        assert text.count("<radialGradient") == text.count("<path") == 2
        assert is_ours(Path(row["svg"]))
        again = (255 * BezierPaths.from_svg(text)()[0].detach().permute(1, 2, 0)).numpy()
        assert np.abs(again - drawing).mean() < 1
    table = (tmp_path / "made" / "table.csv").read_text().splitlines()
    assert len(table) == 3
    assert "240 x 160,48 x 32" in table[2]


def test_odd_pictures_behave(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (10, 200, 30)).save("plain.png")
    Image.new("RGB", (1, 5000), (200, 0, 30)).save("thin.png")
    Image.new("L", (1, 1), 9).save("dot.png")
    disc(tmp_path / "clear.png", mode="RGBA", ground=(0, 0, 0, 0))
    names = ("plain.png", "thin.png", "dot.png", "clear.png")
    found = command("vectorize", *names, "--paths", 2, "--steps", 30, "--json").json()["pictures"]
    rows = dict(zip(names, found, strict=True))
    assert all(float(rows[name]["psnr"]) > 40 for name in names[:3])  # some are "inf"
    assert 'viewBox="0 0 1 5000"' in Path(rows["thin.png"]["svg"]).read_text()
    assert rows["thin.png"]["drawn_at"] == [1, 240]
    assert rows["clear.png"]["background"] == "#ffffff"
    assert rows["clear.png"]["psnr"] > rows["clear.png"]["psnr_background"] + 3


def test_a_drawing_without_background_is_transparent_where_no_path_is(command: Command, tmp_path: Path) -> None:
    disc(tmp_path / "a.png", mode="RGBA", ground=(0, 0, 0, 0))
    words = ("--paths", 1, "--steps", 30, "--background", "transparent", "--json")
    row = command("vectorize", "a.png", *words).json()["pictures"][0]
    assert row["background"] == "transparent"
    assert "<rect" not in Path(row["svg"]).read_text()
    picture = Image.open(row["png"])
    drawing = np.asarray(picture)
    assert drawing.shape == (32, 48, 4)
    assert drawing[1, 1, 3] == 0
    assert drawing[16, 24, 3] > 240
    assert np.abs(drawing[16, 24, :3].astype(int) - (40, 60, 120)).max() < 25
    white = Image.new("RGBA", (48, 32), "white")
    source, shown = (np.asarray(Image.alpha_composite(white, p).convert("RGB")) for p in (Image.open("a.png"), picture))
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(source, shown), abs=0.2)


def test_the_ground_below_the_paths_is_chosen(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (20, 20, 40)).save("a.png")
    picture = Image.open("a.png")
    ImageDraw.Draw(picture).rectangle((2, 2, 29, 29), fill=(30, 25, 60))  # so dense that it counts as background
    picture.save("a.png")
    colours = {}
    for name in ("border", "white", "transparent", "segment"):
        words = ("--background", name, "--paths", 1, "--steps", 1, "--out", name)
        colours[name] = command("vectorize", "a.png", *words, "--json").json()["pictures"][0]["background"]
    assert (colours["border"], colours["white"], colours["transparent"]) == ("#141428", "#ffffff", "transparent")
    released: Any = draw_again(to_tensor(picture), 1, steps=1, background="segment").param
    assert colours["segment"] == hex_colour(released.background.tolist())


def test_levels_double_until_all_paths_are_there() -> None:
    for paths in (1, 2, 5, 32, 100, 512):
        levels = vectorize.request(images=["a"], paths=paths).levels()
        assert sum(levels) == paths
        assert all(level == max(1, sum(levels[:row])) for row, level in enumerate(levels[:-1]))


def test_a_run_that_is_cut_short_leaves_what_it_did(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        disc(tmp_path / f"{name}.png")
    after_step, steps = Looks.after_step, list[int]()

    def interrupted(looks: Looks, step: int) -> None:
        after_step(looks, step)
        steps.append(step)
        if len(steps) == 45:  # 20 of each picture's two levels
            raise KeyboardInterrupt

    monkeypatch.setattr(Looks, "after_step", interrupted)
    done = command("vectorize", "a.png", "b.png", "c.png", "--paths", 2, "--steps", 20, "--out", "made")
    assert done.code == 130
    assert "interrupted: 1 picture done, and the next one so far, in made" in done.err
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "a.png", "a.svg", "b.png", "b.svg", "table.csv",
    ]  # fmt: skip
    assert len(BezierPaths.from_svg((tmp_path / "made" / "b.svg").read_text()).layers) == 1
    assert Image.open(tmp_path / "made" / "b.png").size == (48, 32)


def test_steps_of_all_pictures_are_counted_and_each_look_is_a_file(tmp_path: Path) -> None:
    pictures = [str(disc(tmp_path / f"{name}.png")) for name in ("a", "b")]
    counts, seen = list[int](), list[str]()

    def hear(event: Event) -> None:
        if isinstance(event, Counted):
            assert event.total == 8
            counts.append(event.done)
        elif isinstance(event, Previewed):
            assert event.path is not None
            assert event.render()[0].size == Image.open(event.path).size
            seen.append(event.path.name)

    vectorize.run(vectorize.request(images=pictures, paths=2, steps=2, out=str(tmp_path / "made")), progress=hear)
    assert counts == list(range(1, 9))
    assert seen == ["a.png"] * 4 + ["b.png"] * 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a.png", "--paths", 0], "--paths"),
        (["a.png", "--background", "pink"], "--background"),
        (["a.png", "--out", "."], "one of the pictures and would be replaced"),
        (["broken.png"], "broken.png: not an image, or of a format that is not opened; give another picture"),
        (["nothing.png"], "there is no file or folder nothing.png"),
        (["a.png", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_mistakes_are_said(command: Command, tmp_path: Path, words: list[object], text: str) -> None:
    disc(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    before = (tmp_path / "a.png").read_bytes()
    done = command("vectorize", *words)
    assert done.code in (1, 2)
    assert text in done.err
    assert (tmp_path / "a.png").read_bytes() == before
