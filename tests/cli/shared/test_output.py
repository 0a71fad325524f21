"""What is printed is what was given: names and labels are data, never orders to the terminal."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.cli.shared import output, progress

Command = Callable[..., Any]
ODD = ["[red]cat[/red]", "[/]", "[link=x]dog", ":cat:", "[bold", "a\\[b]"]


def test_brackets_and_colons_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(" ".join(ODD), ODD, [ODD, list(reversed(ODD))])
    output.note(" ".join(ODD))
    output.warn_skipped([(odd, odd) for odd in ODD])
    said = capsys.readouterr()
    title, header, _, *rows = [line for line in said.out.splitlines() if line.strip()]
    assert title == " ".join(ODD)
    assert header.split() == ODD
    assert [row.split() for row in rows] == [ODD, list(reversed(ODD))]
    note, _, *skipped = said.err.splitlines()
    assert note == " ".join(ODD)
    assert [line.strip() for line in skipped] == ODD


def test_small_numbers_are_not_shown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [0.0, 0.0004, -2.5e-9, 0.0006, 0.12345, 1234.5]
    output.print_table("", list("abcdef"), [numbers])
    said = capsys.readouterr().out.splitlines()
    assert said[-2].split() == ["0.000", "0.0004", "-2.5e-09", "0.001", "0.123", "1234.500"]


def test_skipped_files_are_named_as_people_write_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An index keeps whole paths, whatever way its folder was given.
    monkeypatch.chdir(tmp_path)
    bad = str(tmp_path / "photos" / "bad.png")
    output.warn_skipped([(bad, f"{bad}: not an image"), (bad, "not an image")])
    assert [line.strip() for line in capsys.readouterr().err.splitlines()[1:]] == ["photos/bad.png: not an image"] * 2
    address = "s3://web/photos/part.tar"  # no path of this machine: both slashes stay
    output.warn_skipped([(address, f"{address}: no archive"), (address, "no archive")])
    assert [line.strip() for line in capsys.readouterr().err.splitlines()[1:]] == [f"{address}: no archive"] * 2


def test_progress_takes_brackets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rich reads the text of a spinner as markup however its console is set.
    seen = io.StringIO()
    monkeypatch.setattr(progress, "notes", type(output.notes)(file=seen, force_terminal=True, width=100))
    for odd in ODD:
        with progress.stages(odd) as say:
            say(f"next {odd}")
    assert all(odd in seen.getvalue() for odd in ODD)


def test_a_name_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table("a\x1b[2J", ["b\x07"], [["c\x9b1A"]])
    output.note("d\r")
    said = capsys.readouterr()
    assert not any(ord(mark) < 32 or 127 <= ord(mark) < 160 for mark in (said.out + said.err).replace("\n", ""))
    assert "a\\x1b[2J" in said.out
    assert "d\\x0d" in said.err


def test_labels_with_brackets_stand_in_the_table(command: Command, pictures: Path) -> None:
    done = command("classify", pictures / "cat.jpg", "-l", "[red]cat[/red],[/],:dog:")
    assert done.code == 0, done.err
    assert all(label in done.out for label in ("[red]cat[/red]", "[/]", ":dog:"))


def test_names_that_are_not_text_are_named_and_left_out(command: Command, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for each in (name, "cup.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / each)
    done = command("classify", tmp_path, "-l", "cat,dog", "--json")
    assert done.code == 0, done.err
    assert [Path(entry["image"]).name for entry in done.json()["images"]] == ["cup.png"]
    assert "caf\\xe9.png" in done.err
    assert "not UTF-8" in done.err
    alone = command("classify", tmp_path / name, "-l", "cat,dog")
    assert alone.code == 2
    assert "caf\\xe9.png: its name is not UTF-8: rename the file" in alone.err
