"""Checkpoints that are whole or not there at all.

A checkpoint is written into a temporary folder, flushed to the disk, sealed with the hash of its contents and renamed;
a reader takes the newest one whose seal is right. Whatever the parallelism, the file has the same content, so a run
may go on with another number of processes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, OutputError
from binderclip.files import disk_is_full, megabytes, replace_folder, write_problem, write_whole

__all__ = ["Checkpoint"]

_STATE, _SEAL = "state.pt", "COMPLETE"


class Checkpoint:
    """Where and how often `fit` saves, and what it goes on from.

    Args:
        folder: holds `step-00000100/` and so on; made when the first one is written.
        every: optimizer steps between two checkpoints; the last step always gets one.
        keep: newest checkpoints to keep.
        resume: go on from the newest whole checkpoint, if there is one. False starts afresh and removes old ones.
        identity: settings that must be the same to go on (JSON-like); what differs is named in the error.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 100,
        keep: int = 2,
        resume: bool = True,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every, self.keep, self.resume = every, max(1, keep), resume
        self.identity = dict(identity or {})

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step` steps."""
        return step % self.every == 0

    def describe(self) -> str:
        """Which checkpoint is left, for messages."""
        checkpoints = self._whole_looking()
        return f"the checkpoint {checkpoints[-1]} is kept" if checkpoints else "no checkpoint was written yet"

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`; only process 0 writes.

        Raises:
            CheckpointError: the disk is full or not writable; older checkpoints stay.
        """
        target = self.folder / f"step-{step:08d}"
        problem = ""
        if _rank() == 0:
            try:
                self._write(target, {"step": step, "identity": json.dumps(self.identity), **state})
            except (OSError, RuntimeError, OutputError) as error:
                problem = self._explain(error, step, state)
        problem = _from_first(problem)
        if problem:
            raise CheckpointError(problem)
        return target

    def _write(self, target: Path, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".writing-{target.name}"
        shutil.rmtree(draft, ignore_errors=True)

        def write(place: Path) -> None:
            with place.open("wb") as file:  # given a name, torch would write it into the archive
                torch.save(dict(state), file)

        try:
            draft.mkdir()
            write_whole(draft / _STATE, write)
            seal = {"sha256": _sha256(draft / _STATE), "bytes": (draft / _STATE).stat().st_size}
            write_whole(draft / _SEAL, json.dumps(seal))
            replace_folder(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        for old in self._whole_looking()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _explain(self, error: Exception, step: int, state: Mapping[str, Any]) -> str:
        full = f"the disk is full, and it takes {megabytes(_bytes(state))}"
        what = full if disk_is_full(error) else write_problem(error)
        return f"cannot write the checkpoint of step {step} in {self.folder}: {what}; {self.describe()}"

    def latest(self, unfit: Callable[[Mapping[str, Any]], str] | None = None) -> dict[str, Any] | None:
        """The state of the newest checkpoint that can be used, on the CPU; None where there is none.

        A damaged one is passed over with a warning. Only tensors and plain values are read (`weights_only`).

        Args:
            unfit: says why a state cannot be used, "" where it can; such a checkpoint is passed over like a damaged
                one.

        Raises:
            CheckpointError: checkpoints exist, but none can be used; or the newest belongs to other settings.
        """
        checkpoints = self._whole_looking()
        reasons = []
        for path in reversed(checkpoints):
            state, reason = _read(path)
            if state is not None:
                self._check_identity(path, parse_json(state.pop("identity")))
                reason = unfit(state) if unfit is not None else ""
                if not reason:
                    return state
            reasons.append(f"{path.name}: {reason}")
            warnings.warn(f"checkpoint {path} is passed over: {reason}", stacklevel=2)
        if checkpoints:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used ({reasons[0]}); remove the folder to start afresh"
            )
        return None

    def _check_identity(self, path: Path, there: Mapping[str, Any]) -> None:
        here = json.loads(json.dumps(self.identity))
        for key in sorted({*here, *there}):
            if here.get(key) != there.get(key):
                raise CheckpointError(
                    f"checkpoint {path} was written with {key} = {there.get(key)!r}, now it is {here.get(key)!r}; "
                    "resume with the same settings, or start afresh in another folder"
                )

    def prepare(self, unfit: Callable[[Mapping[str, Any]], str] | None = None) -> dict[str, Any] | None:
        """Clear what a killed process left, and give the state to go on from (None for a fresh start).

        Args:
            unfit: see `latest`.
        """
        if _rank() == 0 and self.folder.is_dir():
            for left in (*self.folder.glob(".writing-*"), *self.folder.glob(".replaced-*")):
                shutil.rmtree(left, ignore_errors=True)
            if not self.resume:
                for old in self._whole_looking():
                    shutil.rmtree(old)
        if _several():
            dist.barrier()
        return self.latest(unfit) if self.resume else None

    def _whole_looking(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())


def _bytes(tree: Any) -> int:
    """Bytes of all tensors in a nested state."""
    if isinstance(tree, Mapping):
        return sum(map(_bytes, tree.values()))
    if isinstance(tree, (list, tuple)):
        return sum(map(_bytes, tree))
    return tree.numel() * tree.element_size() if isinstance(tree, Tensor) else 0


def _read(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in a checkpoint, or None and why it cannot be had."""
    if reason := _damage(path):
        return None, reason
    try:
        state = torch.load(path / _STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return None, f"{_STATE} holds more than tensors and plain values; it is not read"
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return None, f"{_STATE} cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})"
    if not isinstance(state, dict) or not isinstance(state.get("step"), int) or "identity" not in state:
        return None, f"{_STATE} holds no state of a run"
    return state, ""


def _damage(path: Path) -> str:
    try:
        seal = parse_json((path / _SEAL).read_text())
        size = (path / _STATE).stat().st_size
        if size != seal["bytes"]:
            return f"{_STATE} has {size} bytes where {seal['bytes']} were written"
        if _sha256(path / _STATE) != seal["sha256"]:
            return f"the hash of {_STATE} is not the one that was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it was not finished ({error})"
    return ""


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _several() else 0


def _from_first(problem: str) -> str:
    """What process 0 said, in every process; also the barrier after writing."""
    if not _several():
        return problem
    box = [problem]
    dist.broadcast_object_list(box, src=0)
    return box[0]
