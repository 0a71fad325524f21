"""`binderclip segment --head FOLDER`: label maps by a head that was trained and saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.segment import Segmentation


@dataclass(frozen=True)
class HeadRequest:
    """The options, as given."""

    head: str
    model: str
    device: str
    json: bool

    background = ()

    @property
    def title(self) -> str:
        """What made the label maps."""
        return f"head {self.head}"

    @property
    def described(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"head": self.head}

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """What the label maps depend on; the folder with its time, as it may be trained anew."""
        from binderclip.models.files.folders import CONFIG

        stamp = (Path(self.head) / CONFIG).stat().st_mtime_ns
        return {"labels": list(names), **self.described, "head_file": stamp}

    def build(self, names: Sequence[str]) -> Callable[[Path, list[str]], Segmentation]:
        """The head, opened.

        Raises:
            UsageError: a label that it was not trained for.
            CheckpointError: another kind of folder, or damaged weights.
        """
        from binderclip.models import load
        from binderclip.models.files.folders import folder_config
        from binderclip.segment import open_head

        own = folder_config(self.head).get("model", self.model)  # --model says no other than small: the head's own
        head = open_head(self.head, load(own if self.model == "small" else self.model, device=self.device))
        return lambda path, labels: head.segment(path, labels)

    def names(self, given: Sequence[str] | None) -> list[str]:
        """The labels: those given, else the classes the head was trained for.

        Raises:
            UsageError: none is given, and the head takes any.
        """
        if given is not None:
            return list(given)
        from binderclip.models.files.folders import folder_config

        classes = folder_config(self.head).get("classes")
        if not isinstance(classes, list):
            raise UsageError(f"--head {self.head} takes any labels: give --labels, such as --labels car,tree")
        return [str(name) for name in classes]

    def check(self) -> None:
        """Refuse what is no trained head, before anything is loaded.

        Raises:
            UsageError: no such folder, or a head of another kind.
        """
        from binderclip.models.files.folders import folder_kind

        if not Path(self.head).is_dir():
            raise UsageError(f"--head {self.head}: there is no such folder; or give --example with --mask")
        if folder_kind(self.head) == "few-shot":
            raise UsageError(f"--head {self.head} finds what an example shows: give --example PICTURE --mask MASK")
