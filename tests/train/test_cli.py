"""`binderclip train` as a user meets it: exit codes, short errors, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from binderclip import cli
from binderclip.data import load_data
from binderclip.settings import write_toml


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["binderclip", *words])
    try:
        cli.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.usefixtures("plotted")
def test_train_then_classify(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text(write_toml({**tiny, "data": ["noto-emoji"], "epochs": None, "samples": 64}))
    words = ("train", str(recipe), "--out", str(out))
    assert command(monkeypatch, *words, "--json", "--set", "stage.lr=2e-3", "--clip", "norm") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["stages"][0]["steps"] == 4
    assert "noto-emoji/text_to_image/R@10" in printed["figures"]
    assert "lr = 0.002" in (out / "recipe.toml").read_text()
    assert command(monkeypatch, *words) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command(monkeypatch, *words, "--resume", "--set", "stage.lr=2e-3", "--clip", "norm") == 0
    assert "held out" in capsys.readouterr().out
    picture = out / "plots" / "loss.png"
    assert command(monkeypatch, "classify", str(picture), "-l", "cat,dog", "-m", str(out), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 1


def test_held_out_data_may_be_a_folder(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pets" / "held"
    folder.mkdir(parents=True)
    for sample in load_data("noto-emoji", "val").subset(range(12)):
        sample.image.save(folder / f"{sample.key}.png")
        (folder / f"{sample.key}.txt").write_text(sample.caption)
    tiny |= {"data": ["noto-emoji"], "epochs": None, "samples": 32, "evaluation": {"data": [str(folder)]}}
    (tmp_path / "r.toml").write_text(write_toml(tiny))
    assert command(monkeypatch, "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run")) == 0
    table = capsys.readouterr().out.split("held out", 1)[1]
    assert "held" in table.splitlines()[2]
    assert "text to image R@10" in table
    assert ["pictures", "12"] in [line.split() for line in table.splitlines()]
    assert str(tmp_path) not in table


@pytest.mark.usefixtures("plotted")
def test_few_pictures_that_are_held_out_are_counted_and_told_with_their_limits(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("heart", "flag"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for sample in load_data("noto-emoji", "train").where(caption=lambda text, name=name: name in text)[:10]:
            sample.image.save(tmp_path / "own" / name / f"{sample.key}.png")
    tiny |= {"epochs": None, "samples": 32, "data": ["noto-emoji"], "evaluation": {}}
    (tmp_path / "r.toml").write_text(write_toml(tiny))
    words = ("train", str(tmp_path / "r.toml"), "--data", str(tmp_path / "own"), "--out", str(tmp_path / "run"))
    assert command(monkeypatch, *words) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert ["pictures", "2"] in rows
    assert "2 of 20 pictures are held out, too few" in " ".join(printed.err.split())
    [accuracy] = [float(row[-1]) for row in rows if row[:2] == ["zero-shot", "accuracy"]]
    # Wilson's 95 % limits of none, one and both of two.
    limits = {0.0: "0.00 and 0.66", 0.5: "0.09 and 0.91", 1.0: "0.34 and 1.00"}[accuracy]
    assert f"lies between {limits} (95 %)" in " ".join(printed.err.split())


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("lrr = 1\nepochs = 1\n", (), "line 1: there is no entry 'lrr'; did you mean 'lr'?"),
        ('data = "openclipart"\nepochs = 1\n', ("--clip", "nrom"), "did you mean 'norm'?"),
        ('data = "openclipartt"\nepochs = 1\n', (), "did you mean openclipart"),
        ('data = "openclipart"\nepochs = 1\nmodel = "smal"\n', (), "smal"),
        ('data = "openclipart"\nepochs = 1\n', ("--device", "gpu7"), "gpu7"),
        ('data = "openclipart"\nepochs = 1\n', ("--parallel", "both"), "parallel is ddp or fsdp"),
    ],
)
def test_mistakes_cost_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: Any,
    said: str,
) -> None:
    (tmp_path / "r.toml").write_text(text)
    assert command(monkeypatch, "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"), *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_check_shows_every_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text('data = "openclipart"\nepochs = 1\n')
    assert command(monkeypatch, "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"), "--check") == 0
    shown = capsys.readouterr().out
    assert 'optimizer = "adamw"' in shown
    assert not (tmp_path / "run").exists()


def test_commands_in_data_are_refused_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"pipe:touch {tmp_path / 'ran'}"
    (tmp_path / "r.toml").write_text(f'data = "{address}"\nsamples = 8\n')
    train = ("train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run"))
    for words in (train, ("evaluate", "small", "--data", address)):
        assert command(monkeypatch, *words) == 2
        assert "runs a shell command" in capsys.readouterr().err
        assert not (tmp_path / "ran").exists()
    # Allowed, it runs, and is no archive.
    assert command(monkeypatch, "evaluate", "small", "--data", address, "--allow-pipe") == 1
    assert "no picture can be read" in capsys.readouterr().err
    assert (tmp_path / "ran").exists()
