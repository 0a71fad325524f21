"""A trained tracer as a folder: its network and the settings it was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from binderclip.errors import UsageError
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import bundled_of, read_folder, write_folder
from binderclip.segment.tubular.tracer import LocalPathNet, TubularTracer

__all__ = ["load_tracer", "save_tracer"]

KIND = "tracer"
BUNDLED = "small-tracer"
"""The tracer that is shipped, trained on drawn tubes."""
SETTINGS = ("length", "radius", "eps", "unknown", "threshold")


def save_tracer(
    tracer: TubularTracer, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32"
) -> Path:
    """Write a tracer whose score is a `LocalPathNet` into a folder that `load_tracer` and `binderclip trace` take.

    Args:
        tracer: such as `train_tracer(...).best`.
        folder: is made where it is missing.
        card: what to say of it, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".

    Raises:
        UsageError: its score is not a network of this kind, which has no file.
    """
    net = getattr(tracer.score, "__self__", None)
    if not isinstance(net, LocalPathNet) or tracer.score != net.scores or tracer.mask not in (None, net.masks):
        raise UsageError(
            "only a tracer whose score is LocalPathNet.scores, and whose mask is that network's, can be saved: others "
            "have no weights"
        )
    settings = {name: getattr(tracer, name) for name in SETTINGS}
    config = {"net": net.settings, "tracer": settings, "masks": tracer.mask is not None}
    return write_folder(folder, kind=KIND, config=config, state=net.state_dict(), card=card or {}, dtype=dtype)


def load_tracer(source: str | Path = BUNDLED) -> TubularTracer:
    """Read a folder that `save_tracer` wrote, or the bundled tracer.

    Args:
        source: a folder, or "small-tracer".

    Raises:
        UsageError: no such name or folder.
        CheckpointError: another kind of model, or damaged weights.
    """
    bundled = bundled_of(KIND)
    folder = bundled.get(str(source), Path(source))
    if not folder.is_dir():
        raise UsageError(f"there is no tracer or folder {str(source)!r}; bundled: {', '.join(bundled) or 'none'}")
    read = read_folder(folder, KIND)
    net = configured(lambda: LocalPathNet(**read.config["net"]), folder)
    guarded(lambda: net.load_state_dict(read.state), folder, "this version")
    masks = bool(read.config.get("masks", True))
    return configured(
        lambda: TubularTracer(net.eval().scores, mask=net.masks if masks else None, **read.config["tracer"]), folder
    )
