"""A record of what a clip did, step by step, that costs no synchronisation in between."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from binderclip.errors import OutputError, UsageError
from binderclip.files import make_folder, write_problem, write_whole
from binderclip.optim.clip.report import ClipReport
from binderclip.optim.clip.spikes import (
    FILE,
    ClipHistory,
    Spike,
    SpikeDetector,
    history_of,
    plot_clipping,
    read_clip_log,
    read_log_lines,
)
from binderclip.optim.gradients.collect import KeyedParameter, Parameters, entries_of
from binderclip.optim.gradients.nonfinite import NonFiniteGradient

if TYPE_CHECKING:
    from binderclip.optim.clip.attach import Attachment

__all__ = ["ClipLog"]

# What a clip contributes to a row: the statistic and the limit of its worst block, the smallest factor, the share of
# blocks clipped.
_PER_CLIP = 4


class ClipLog:
    """Watch a clip: norm, limit, clipped steps, spikes and who caused them, in a file and a picture.

    It has the face of the clip it holds, so it takes the clip's place: `ClipLog(ZClip(), out="runs/a").attach(opt)`.
    Each step leaves one row of numbers on the gradients' device; every `every` steps they are read together, spikes
    are marked, and the lines go to `OUT/clip.jsonl` and to TensorBoard. Under torch.distributed the first process
    writes. `binderclip spikes runs/a` prints the spikes.

    The step count travels with the clip's state in the optimizer's state dict. After a resume the file goes on from
    there: lines of steps that are done again are replaced.

    Args:
        clip: a `Clip`, or a list of them made by `as_clip`.
        every: steps between two reads; each is the only host synchronisation of those steps.
        out: folder for `clip.jsonl` and, at `close()`, `clip.png`; made when needed. None keeps no file.
        writer: TensorBoard's `SummaryWriter`, or anything with `add_scalar(name, value, step)`.
        top: parameters that are kept by name for each spike.

    Raises:
        UsageError: `every` or `top` below 1, or something that is no clip.

    Examples:
        >>> from binderclip.optim import NormClip
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> log = ClipLog(NormClip(1.0))
        >>> for size in [1.0] * 10 + [50.0]:
        ...     weight.grad = torch.tensor([0.0, size])
        ...     _ = log([("weight", weight)])
        >>> [(spike.step, spike.norm, spike.top[0][0]) for spike in log.spikes]
        [(11, 50.0, 'weight')]
    """

    def __init__(
        self, clip: Any, every: int = 50, *, out: str | Path | None = None, writer: Any = None, top: int = 8
    ) -> None:
        if every < 1 or top < 1:
            raise UsageError(f"every and top must be at least 1, got {every} and {top}")
        if not hasattr(clip, "run") or not hasattr(clip, "report"):
            raise UsageError(f"ClipLog watches a Clip or a list made by as_clip, got {clip!r}")
        self.clip, self.every, self.top, self.writer = clip, every, top, writer
        self.out = None if out is None else Path(out)
        self.step = 0
        self.clips: tuple[Any, ...] = tuple(getattr(clip, "clips", (clip,)))
        # what norm and limit are shown of: the first that looks at the whole gradient
        whole = [getattr(one, "granularity", "") == "global" for one in self.clips]
        self._main = whole.index(True) if any(whole) else 0
        # without the addresses of objects that have no text of their own
        shown = [re.sub(r"<(?:\w+\.)*(\w+) object at 0x\w+>", r"\1", repr(one)) for one in self.clips]
        self._head = {"clips": shown, "whole": any(whole)}
        self._waiting: list[tuple[int, tuple[str, ...], int, Tensor]] = []
        self._detect = SpikeDetector()
        self._lines: list[dict[str, Any]] = []
        self._open = False

    # -- in the clip's place -----------------------------------------------------------------------------------------

    def __call__(self, params: Parameters) -> Any:
        """Clip these parameters' gradients and note the report; see `Clip`."""
        return self.run(entries_of(params), None)

    def run(self, entries: Sequence[KeyedParameter], target: Any) -> Any:
        """Run the clip and note its report."""
        with self.noting():
            return self.clip.run(entries, target)

    @contextmanager
    def noting(self, *, done: bool = True) -> Iterator[None]:
        """Note what the clip says inside: its report at the end, or the error it raises.

        Args:
            done: whether the step's report is there at the end; False where the clip has yet to see the update.
        """
        try:
            yield
        except NonFiniteGradient as error:
            self._raised(str(error))
            raise
        if done:
            self.record()

    @property
    def report(self) -> Any:
        """The clip's last report."""
        return self.clip.report

    @property
    def exclude(self) -> Any:
        """What the clip excludes."""
        return self.clip.exclude

    def attach(self, optimizer: Any, names: nn.Module | Iterable[tuple[str, Tensor]] | None = None) -> Attachment:
        """Clip and note before every step of an optimizer; see `Clip.attach`."""
        from binderclip.optim.clip.attach import attach

        return attach(self, optimizer, names)

    def state_dict(self) -> dict[str, Any]:
        """The clip's state and the step count; what waits is written first, so that a checkpoint has it all."""
        self.flush()
        return {**self.clip.state_dict(), "logged": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, also from one that was saved without a log."""
        self._waiting, self._open = [], False
        self.step = int(state.get("logged", self.step))
        self.clip.load_state_dict(state)

    def __repr__(self) -> str:
        return f"ClipLog({self.clip!r})"

    # -- noting ------------------------------------------------------------------------------------------------------

    def record(self, step: int | None = None) -> None:
        """Note the clip's last report; called by itself, unless the clip is used on its own.

        Args:
            step: 1-based number of the step; default one more than the last.
        """
        self.step = self.step + 1 if step is None else step
        report = self.clip.report
        reports = list(report) if isinstance(report, list) else [report]
        # nothing had a gradient
        if any(one is None or not len(one.stat) for one in reports):
            return
        main = reports[self._main]
        skipped = main.skipped if len(reports) == 1 else torch.stack([one.skipped for one in reports]).any()
        parts = [main.norm.reshape(1), skipped.reshape(1)]
        for one in (main, *(other for other in reports if other is not main)):
            parts += _worst(one)
        self._waiting.append((self.step, main.names, len(reports), torch.cat([*parts, main.tensor_norms])))
        if len(self._waiting) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Read what waits, in one copy, and write it."""
        waiting, self._waiting = self._waiting, []
        if not waiting or not _leads():
            return
        self._go_on(waiting[0][0])
        device = waiting[-1][-1].device
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        # rows differ in length where parameters come and go
        values = iter(torch.cat([row.to(device, dtype) for *_, row in waiting]).tolist())
        self._write(
            [
                self._line(step, names, clips, [next(values) for _ in range(len(row))])
                for step, names, clips, row in waiting
            ]
        )

    def _line(self, step: int, names: tuple[str, ...], clips: int, values: list[float]) -> dict[str, Any]:
        """One step as it stands in the file."""
        norm, skipped, rest = _short(values[0]), bool(values[1]), values[2:]
        blocks = [rest[_PER_CLIP * i : _PER_CLIP * (i + 1)] for i in range(clips)]
        line: dict[str, Any] = {
            "step": step,
            "norm": _plain(norm),
            "stat": _plain(_short(blocks[0][0])),
            "limit": _plain(_short(blocks[0][1])),
            "scale": _plain(_short(math.prod(block[2] for block in blocks))),
            "clipped": _plain(_short(max(block[3] for block in blocks))),
            "skipped": skipped,
        }
        spike, usual = self._detect(norm)
        if spike:
            line |= {"usual": usual and _short(usual), "top": self._largest(norm, names, rest[_PER_CLIP * clips :])}
        return line

    def _largest(self, whole: float, names: tuple[str, ...], norms: list[float]) -> list[list[Any]]:
        """The largest contributors; where the gradient is not finite, the tensors that are not come first."""
        order = getattr(self.clips[self._main], "order", 2.0)
        sizes = [norm if math.isfinite(norm) else math.inf for norm in norms]
        largest = sorted(range(len(norms)), key=lambda index: -sizes[index])[: self.top]

        def share(norm: float) -> float | None:
            if not (math.isfinite(norm) and math.isfinite(whole) and whole > 0):
                return None
            return _short((norm / whole) ** (order if math.isfinite(order) else 1.0))

        return [[names[index], _plain(_short(norms[index])), share(norms[index])] for index in largest]

    def _raised(self, message: str) -> None:
        """Note a step at which the clip raised."""
        self.flush()
        self.step += 1
        if not _leads():
            return
        self._go_on(self.step)
        usual = self._detect(math.nan)[1]
        line = {"step": self.step, "norm": None, "stat": None, "limit": None, "scale": None, "clipped": 0.0}
        self._write([{**line, "skipped": True, "usual": usual, "top": [], "note": message}])

    # -- writing -----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The file, where there is one."""
        return None if self.out is None else self.out / FILE

    def _go_on(self, step: int) -> None:
        """Before the first write: drop what is there of this step and later ones, and remember what stays."""
        if self._open:
            return
        self._open = True
        if self.path is None:
            self._lines = kept = [line for line in self._lines if line["step"] < step]
        else:
            rows = list(read_log_lines(self.path)) if self.path.exists() else []
            kept = [row for row in rows if row.get("step", step) < step]
            make_folder(self.path.parent)
            write_whole(self.path, "".join(json.dumps(row) + "\n" for row in (self._head, *kept)))
        norms = [math.nan if line["norm"] is None else line["norm"] for line in kept]
        self._detect.restart(norms)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        if self.path is None:
            self._lines += lines
        else:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(line) + "\n" for line in lines))
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {write_problem(error)}") from error
        for line in lines if self.writer is not None else ():
            for name in ("norm", "limit", "scale", "clipped"):
                if line[name] is not None:
                    self.writer.add_scalar(f"clip/{name}", line[name], line["step"])

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def history(self) -> ClipHistory:
        """Everything noted so far; reads what waits."""
        self.flush()
        if self.path is not None and self.path.exists():
            return read_clip_log(self.path)
        return history_of(self._head, self._lines)

    def _repr_html_(self) -> str:
        """The history so far, in a notebook; reads what waits."""
        return self.history._repr_html_()

    @property
    def spikes(self) -> list[Spike]:
        """The steps that stood out so far; reads what waits."""
        return self.history.spikes

    def plot(self, path: str | Path | None = None) -> Path:
        """Draw the history as a PNG.

        Args:
            path: the file; default `OUT/clip.png`.

        Raises:
            UsageError: no path, and the log has no folder.
            DataError: nothing was noted, or the file cannot be written.
        """
        if path is None and self.out is None:
            raise UsageError("plot() needs a path: this log has no out= folder")
        return plot_clipping(self.history, path or self.out / "clip.png")  # type: ignore[operator]

    def close(self) -> None:
        """Write what waits, and draw `OUT/clip.png` where there is a folder and anything was noted."""
        self.flush()
        if self.path is not None and self.path.exists() and _leads():
            self.plot()


def _worst(report: ClipReport) -> list[Tensor]:
    """Statistic and limit of the block furthest above its limit, the smallest factor, the share of blocks clipped."""
    if len(report.stat) == 1:
        return [report.stat, report.limit, report.scale, report.clipped]
    # taken by `gather`: indexing by a tensor of no dimension would read it back
    worst = torch.where(report.stat > 0, report.stat / report.limit, 0.0).argmax(keepdim=True)
    fraction = report.clipped.to(report.stat.dtype).mean()
    stat, limit = report.stat.gather(0, worst), report.limit.gather(0, worst)
    return [stat, limit, report.scale.amin().reshape(1), fraction.reshape(1)]


def _leads() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _short(value: float) -> float:
    """Seven digits: all that float32 holds, in a file of half the size."""
    return float(f"{value:.7g}")


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
