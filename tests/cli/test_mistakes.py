"""A user's mistake costs one short line and the right exit code, before any work is lost; never a traceback."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip import models
from binderclip.data import load_data, write_shards

Command = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, pictures: Path, broken: Path, recipe: Path) -> Path:
    """The current folder, with good and bad things in it."""
    for folder in ("empty", "mixed", "many"):
        (tmp_path / folder).mkdir()
    shutil.copy(pictures / "cat.jpg", tmp_path / "cat.jpg")
    shutil.copy(pictures / "cat.jpg", tmp_path / "mixed" / "cat.jpg")
    shutil.copy(broken, tmp_path / "mixed" / "broken.png")
    shutil.copy(broken, tmp_path / "broken.png")
    shutil.copy(recipe, tmp_path / "tiny.toml")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "full.png").symlink_to("/dev/full")
    return tmp_path


CAT = ("cat.jpg", "-l", "cat,dog")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        # labels
        (("classify", "cat.jpg", "-l", ""), 2, "--labels is empty"),
        (("classify", "cat.jpg", "-l", "cat,dog,cat"), 2, "--labels names 'cat' more than once"),
        (("classify", "cat.jpg", "-l", "cat,,dog"), 2, "has an empty label"),
        (("classify", "cat.jpg", "-l", "@none.txt"), 2, "there is no file none.txt"),
        (("classify", "cat.jpg", "-l", "@latin.txt"), 2, "latin.txt is not a text file in UTF-8"),
        (("segment", "cat.jpg", "-l", ""), 2, "--labels is empty"),
        (("segment", *CAT, "--background", ","), 2, "--background is empty"),
        (("segment", *CAT, "--background", "cat"), 2, "'cat' is a label and background as well"),
        (("explain", "cat.jpg", "-l", " "), 2, "--label is empty"),
        # pictures
        (("classify", "none.png", "-l", "cat"), 2, "there is no file or folder none.png"),
        (("classify", "empty", "-l", "cat"), 1, "no images in empty"),
        (("classify", "broken.png", "-l", "cat"), 1, "broken.png: damaged image"),
        (("segment", "mixed", "-l", "cat", "--overlay", "x.png"), 2, "are for one image"),
        (("segment", "broken.png", "-l", "cat"), 1, "broken.png: damaged image"),
        (("explain", "broken.png", "-l", "cat"), 1, "broken.png: damaged image"),
        (("explain", "none.png", "-l", "cat"), 2, "there is no file or folder none.png"),
        # choices
        (("classify", *CAT, "--top", "0"), 2, "Invalid value for '--top'"),
        (("classify", *CAT, "--templates", "phoot"), 2, "templates 'phoot' is neither a set"),
        (("classify", *CAT, "--device", "gpu"), 2, "device 'gpu' is unknown"),
        (("classify", *CAT, "--dtype", "int8"), 2, "dtype 'int8' is unknown"),
        (("segment", *CAT, "--preset", "vale"), 2, "preset 'vale' is unknown; there are"),
        (("segment", *CAT, "--preset", "valeu"), 2, "did you mean value?"),
        (("segment", *CAT, "--preset", " "), 2, "--preset is empty: give it a value"),
        (("segment", *CAT, "--preset", "value,plain", "--map", "a.png"), 2, "leave out --overlay, --map"),
        (("segment-evaluate", "scenes", "--preset", "value,valeu"), 2, "preset 'valeu' is unknown"),
        (("segment-evaluate", "sceens"), 2, "nor a made set of this name: those are scenes,"),
        (("segment-evaluate", "cat.jpg"), 2, "cat.jpg is a file: give the folder"),
        (("segment-evaluate", "empty"), 2, "empty holds no pictures with label maps"),
        (("segment", *CAT, "--size", "0"), 2, "Invalid value for '--size'"),
        (("explain", "cat.jpg", "-l", "cat", "--method", "gradcm"), 2, "--method 'gradcm' is unknown; there are"),
        (("papers", "xyzzy"), 2, "no paper matches 'xyzzy'"),
        (("reproduce", "p147", "--seeds", "a"), 2, "--seeds 'a': whole numbers"),
        (("search", "qurey", "cat"), 2, "Did you mean 'query'?"),
        # models
        (("classify", *CAT, "-m", "smal"), 2, "did you mean small"),
        (("classify", *CAT, "-m", ""), 2, "--model is empty"),
        (("classify", *CAT, "-m", "empty"), 1, "empty holds no model"),
        (("classify", *CAT, "-m", "open_clip:ViT-B-33"), 2, "did you mean ViT-B-32"),
        (("classify", *CAT, "-m", "open_clip:ViT-B-32/opnai"), 2, "did you mean openai"),
        (("classify", *CAT, "-m", "open_clip:ViT-B-32/none.pt"), 1, "there is no weight file none.pt"),
        # search
        (("search", "index", "none"), 2, "there is no folder none"),
        (("search", "index", "cat.jpg"), 2, "cat.jpg is a file: give a folder"),
        (("anomaly", "cat.jpg"), 2, "cat.jpg is a file: give a folder"),
        (("edges", "cat.jpg", "--truth", "cat.jpg"), 2, "--truth: cat.jpg is a file: give a folder"),
        (("edges", "cat.jpg", "--truth", "none"), 2, "--truth: there is no folder none"),
        (("anomaly", "mixed", "--normal", "cat.jpg"), 2, "--normal: cat.jpg is a file: give a folder; `none` compares"),
        (
            ("clean", "cat.jpg", "--of", "fence", "-m", "cat.jpg", "-o", "x"),
            1,
            "a cleaner cannot be read: cat.jpg is a file: give a folder",
        ),
        (("workbench", "cat.jpg"), 2, "cat.jpg is a file: give a folder"),
        (("search", "index", "empty"), 1, "no images in"),
        (("search", "index", "mixed", "--index", "many/.."), 1, "is not empty and not a binderclip index"),
        (("search", "index", "mixed", "--index", ".", "--rebuild"), 1, "is not empty and not a binderclip index"),
        (("search", "query", "cat", "-i", "empty"), 2, "there is no index at empty"),
        (("search", "query", "cat", "-i", "empty"), 2, "make one with `binderclip search index FOLDER`"),
        (("search", "query", "cat", "-i", "none"), 2, "make one with `binderclip search index FOLDER`"),
        (("search", "query", " "), 2, "TEXT_OR_IMAGE is empty"),
        (("search", "query", "none.png"), 2, "there is no file none.png"),
        # data
        (("evaluate", "small", "--data", "noto-emojo"), 2, "did you mean noto-emoji?"),
        (("evaluate", "small", "--data", "noto-emoji", "--split", "tset"), 2, "no split 'tset'"),
        (("evaluate", "small", "--data", "empty"), 1, "no images in this folder"),
        (("evaluate", "small", "--data", "mixed"), 1, "nothing says what they show"),
        (("evaluate", "small", "--data", "none-{00..03}.tar"), 1, "none-00.tar: no such shard"),
        # recipes
        (("train", "scratch-46"), 2, "did you mean 'scratch-64'?"),
        (("train", "none.toml"), 2, "there is no recipe none.toml"),
        (("train", "tiny.toml", "--set", "stage.lrr=1"), 2, "did you mean 'lr'?"),
        (("train", "tiny.toml", "--clip", "nrom"), 2, "did you mean 'norm'?"),
        (("train", "tiny.toml", "--out", "mixed"), 2, "mixed is not empty and holds no run"),
        (("train", "tiny.toml", "--out", "cat.jpg"), 2, "cat.jpg is a file"),
        (("train", "tiny.toml", "--set", "data='empty'"), 1, "no images in this folder"),
        # places that cannot be written
        (("classify", *CAT, "--picture", "none/x.png"), 2, "there is no folder none"),
        (("classify", *CAT, "--picture", "x.xyz"), 2, "a picture's name ends in .png"),
        (("classify", *CAT, "--picture", "empty"), 2, "cannot write empty: it is a folder"),
        (("classify", *CAT, "--picture", "full.png"), 2, "cannot write full.png: it is a device, not a file"),
        (("segment", *CAT, "--map", "map.jpg"), 2, "label numbers are saved as PNG"),
        (("segment", *CAT, "--map", "full.png"), 2, "cannot write full.png: it is a device, not a file"),
        (("segment", *CAT, "--overlay", "full.png"), 2, "cannot write full.png: it is a device, not a file"),
        (("explain", "cat.jpg", "-l", "cat", "-o", "full.png"), 2, "cannot write full.png: it is a device, not a file"),
        (("evaluate", "small", "-o", "none/x.json"), 2, "there is no folder none"),
        (("search", "query", "cat", "--picture", "none/x.png"), 2, "there is no folder none"),
        (("demo", "--out", "cat.jpg"), 2, "--out cat.jpg is a file"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_one_line_says_what_is_wrong(
    command: Command, place: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = command(*words)
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.strip()) < 600
    assert not (place / "runs").exists()


def test_no_cuda_is_said(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for words in (("classify", *CAT), ("train", "tiny.toml")):
        done = command(*words, "--device", "cuda")
        assert done.code == 1
        assert "sees no CUDA device here; use 'cpu'" in done.err


def test_one_broken_picture_among_good_ones_is_named_and_left_out(command: Command, place: Path) -> None:
    done = command("classify", "mixed", "-l", "cat,dog", "--json")
    assert len(done.json()["images"]) == 1
    assert "mixed/broken.png" in done.err
    # Named one by one, it makes the command fail, after the others are done.
    done = command("classify", "mixed/cat.jpg", "mixed/broken.png", "-l", "cat,dog")
    assert done.code == 1
    assert "mixed/cat.jpg" in done.out
    assert command("search", "index", "mixed").code == 0


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned"),)


@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_pickles_that_pose_as_weights_are_not_run(command: Command, place: Path, kind: str) -> None:
    if kind == "pickle":
        (place / "evil.pt").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({"state_dict": Evil()}, place / "evil.pt")
    bundled = Path(models.__file__).parent / "bundled" / "small"
    shutil.copytree(bundled, place / "evil", copy_function=shutil.copyfile)
    shutil.copyfile(place / "evil.pt", place / "evil" / "open_clip_model.safetensors")
    for model, said in (
        ("open_clip:ViT-B-32/evil.pt", "evil.pt is a pickle with more than tensors in it"),
        ("evil", "evil/open_clip_model.safetensors is not a safetensors file"),
        ("evil.pt", "write open_clip:ARCH/evil.pt"),
    ):
        done = command("classify", *CAT, "-m", model)
        assert done.code in (1, 2)
        lines = [line for line in done.err.strip().splitlines() if not line.endswith(" ...")]
        assert len(lines) == 1  # and, on a slow machine, that it is still loading
        assert said in lines[0]
    assert not (place / "owned").exists()


def test_cut_weights_are_named(command: Command, place: Path) -> None:
    bundled = Path(models.__file__).parent / "bundled" / "small"
    shutil.copytree(bundled, place / "cut", copy_function=shutil.copyfile)
    os.truncate(place / "cut" / "open_clip_model.safetensors", 1_000_000)
    done = command("classify", *CAT, "-m", "cut")
    assert done.code == 1
    assert "cut/open_clip_model.safetensors is a damaged or incomplete safetensors file" in done.err


def test_a_truncated_shard_is_used_up_to_the_cut_and_named(command: Command, place: Path) -> None:
    shard = write_shards(load_data("noto-emoji", split="val")[:40], place / "x-%02d.tar")[0]
    os.truncate(shard, shard.stat().st_size // 2)
    shard.with_name("sizes.json").unlink()
    done = command("evaluate", "small", "--data", shard, "--json")
    assert 5 < done.json()["count"] < 35
    assert "x-00.tar: truncated" in done.err
    # A vocabulary of captions cannot be learned from a stream, so that of `small` is taken.
    words = ("train", "tiny.toml", "--set", f"data='{shard}'", "--set", "model.tokenizer='small'")
    trained = command(*words, "--set", "batch_size=4", "--set", "samples=64", "--out", "run")
    assert trained.code == 0, trained.err
    assert "x-00.tar: truncated" in trained.err
    shard.write_bytes(b"junk" * 500)
    for done in (command("evaluate", "small", "--data", shard), command(*words, "--out", "other")):
        assert done.code == 1
        assert "x-00.tar" in done.err
        assert "0 samples" in done.err


def test_an_index_keeps_to_its_model(command: Command, place: Path) -> None:
    assert command("search", "index", "mixed").code == 0
    assert command("train", "tiny.toml", "--out", "run").code == 0
    for words in (("index", "mixed"), ("query", "cat", "-i", "mixed")):
        done = command("search", *words, "--model", "run")
        assert done.code == 2
        assert "was made with model 'everyday'" in done.err
    # A model that cannot be loaded costs nobody an index.
    assert command("search", "index", "mixed", "--rebuild", "--model", "smal").code == 2
    assert command("search", "query", "cat", "-i", "mixed").code == 0
    assert command("search", "index", "mixed", "--rebuild", "--model", "run").code == 0
    assert "model run" in command("search", "query", "cat", "-i", "mixed").out


def test_too_little_memory_is_said(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip import segment

    # More than any address space, so that no machine starts to fill it.
    monkeypatch.setattr(segment.Segmenter, "__call__", lambda *_, **__: torch.empty(2**60))
    done = command("segment", *CAT)
    assert done.code == 1
    assert done.err.startswith("error: not enough memory; try a smaller --size")


def test_a_full_disk_behind_stdout_is_an_error_and_a_closed_pipe_is_none() -> None:
    program = Path(sys.executable).parent / "binderclip"
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(program), "papers", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
    running = subprocess.Popen([str(program), "papers"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    running.wait(60)
