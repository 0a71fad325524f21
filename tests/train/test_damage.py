"""A disk that is full and files that are damaged: short errors before work is lost, and a resume that goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from binderclip.errors import CheckpointError
from binderclip.models import load
from binderclip.optim import ClipLog
from binderclip.train import Recipe, run
from binderclip.train.engine.disk import least_space, usual_space
from binderclip.train.engine.monitor import MetricsFile


@pytest.fixture(scope="module")
def recipe(tiny_document: dict[str, Any]) -> Recipe:
    return Recipe.from_dict({**tiny_document, "epochs": 2, "evaluation": {}})


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("damage") / "whole"
    run(recipe, out=out, progress=False)
    return out


def same(a: Path, b: Path) -> bool:
    one, two = (load(path).backbone.state_dict() for path in (a, b))
    return all(torch.equal(one[name], two[name]) for name in one)


# --- a full disk -----------------------------------------------------------------------------------------------------


def full(*args: Any, **settings: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def flushed(name: str, number: int = 1) -> Callable[[pytest.MonkeyPatch], None]:
    """The disk is full when a file of this name is flushed for the `number`-th time, and stays so."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        real, left = os.fsync, [number]

        def fsync(handle: int) -> None:
            left[0] -= name in os.readlink(f"/proc/self/fd/{handle}")
            full() if left[0] <= 0 else real(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    return patch


def weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As safetensors says it: an error of its own without a number."""

    def save(*args: Any, **settings: Any) -> None:
        raise safetensors.SafetensorError(
            'Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space left on device" }'
        )

    monkeypatch.setattr(safetensors.torch, "save_file", save)


def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetricsFile, "write", full)


def clip_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipLog, "flush", full)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="a system that does not tell which file is flushed")
@pytest.mark.parametrize(
    "patch",
    [
        flushed("recipe.toml"),
        flushed("environment.json"),
        flushed("READY"),
        flushed("metrics.jsonl"),
        flushed("state.pt"),
        flushed("state.pt", 3),
        weights,
        metrics,
        clip_log,
    ],
    ids=["recipe", "environment", "start", "metrics", "checkpoint", "later", "weights", "lines", "clipping"],
)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: Callable[..., None]
) -> None:
    with monkeypatch.context() as inside:
        patch(inside)
        with pytest.raises(CheckpointError, match=r"the disk is full.* \d+(\.\d)? MB") as caught:
            run(recipe, out=tmp_path / "run", progress=False)
    assert str(tmp_path / "run") in str(caught.value)
    run(recipe, out=tmp_path / "run", progress=False, resume=(tmp_path / "run" / "recipe.toml").exists())
    assert same(tmp_path / "run", whole)


Usage = namedtuple("Usage", "total used free")


def test_a_run_that_cannot_fit_is_refused_before_it_starts(
    recipe: Recipe, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(whole)
    count = sum(p.numel() for p in model.parameters())
    # the start, the one stage and the model, in float32; checkpoints: three of the weights and two moments
    assert least_space(recipe, model) == 3 * 4 * count
    assert usual_space(recipe, model) == 3 * 4 * count + 3 * 3 * 4 * count
    on_disk = sum(path.stat().st_size for path in whole.rglob("*.safetensors"))
    assert least_space(recipe, model) == pytest.approx(on_disk, rel=0.05)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 12_345, 12_345))
    with pytest.raises(CheckpointError, match=r"run has 0.1 MB free, and this run leaves \d"):
        run(recipe, out=tmp_path / "deep" / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_reports_nothing_is_not_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip.train.engine.disk import lack_of_space

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert lack_of_space(tmp_path, recipe, torch.nn.Linear(3, 3)) == ""


def test_drafts_of_a_killed_process_are_no_run(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    (tmp_path / ".recipe.toml.77.tmp").write_text("name =")
    run(recipe, out=tmp_path, progress=False)
    assert same(tmp_path, whole)


# --- damaged files ---------------------------------------------------------------------------------------------------

DAMAGES = [b"", b"{", b"[]", b'{"revision": null}', b"\x80\x81\xff", b"[" * 100_000, b'"' + b"x" * 9]


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """All stages are finished, the summary is not written."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    shutil.rmtree(out / "model")
    return out


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_environment_is_written_again(recipe: Recipe, unfinished: Path, content: bytes) -> None:
    (unfinished / "environment.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"environment\.json is damaged"):
        result = run(recipe, out=unfinished, resume=True, progress=False)
    assert result.summary["device"] == "cpu"
    assert json.loads((unfinished / "environment.json").read_text())["device"] == "cpu"


def test_a_missing_environment_is_written(recipe: Recipe, unfinished: Path) -> None:
    (unfinished / "environment.json").unlink()
    assert run(recipe, out=unfinished, resume=True, progress=False).summary["recipe"] == "tiny"


@pytest.mark.parametrize("content", [*DAMAGES, b'{"identity": "x", "history": {}, "skipped": [], "nme": 1}'])
def test_a_damaged_outcome_says_what_to_remove(recipe: Recipe, unfinished: Path, content: bytes) -> None:
    folder = unfinished / "stages" / "00-train"
    (folder / "outcome.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"outcome\.json is damaged .*; remove .*00-train to train"):
        run(recipe, out=unfinished, resume=True, progress=False)
    if content == b"":
        shutil.rmtree(folder)
        assert run(recipe, out=unfinished, resume=True, progress=False).stages[0].steps == 8


def test_damaged_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = json.dumps({"stage": 0, "step": 1, "loss": 2.0}).encode()
    bad = [b'{"stage": 0, "ste', b"\xff\xfe", b"[1, 2]", b'{"step": 1}', b'{"stage": "x", "step": 1}', b"[" * 100_000]
    path.write_bytes(b"\n".join([good, *bad, good]))
    MetricsFile(path, 0, "train").on_start(5, 9)
    assert path.read_bytes() == good + b"\n" + good + b"\n"
