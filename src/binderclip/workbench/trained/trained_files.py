"""What a tab trains and takes again: files in the folders that the workbench was opened on, and those of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.checkpoint import read_json_object
from binderclip.models.files.folders import folder_kind
from binderclip.models.files.registry import BUNDLED
from binderclip.workbench.tab import Bench, Run

SUFFIX = ".safetensors"
MINE = f"mine{SUFFIX}"
"""What a line calls a file that was trained on the page."""


@dataclass(frozen=True)
class TrainedFiles:
    """Files of one kind.

    Attributes:
        noun: what one is, with its article, such as "a detector"; those that a page trains lie in a folder of that name
            beside those of its runs.
        bundled: names of those inside the package.
    """

    noun: str
    bundled: Sequence[str] = ()

    def new(self, run: Run, method: str) -> Path:
        """Where the page's next one goes; no file has that name yet."""
        kept = self._kept(run)
        kept.mkdir(exist_ok=True)
        return kept / f"{method}-{len(list(kept.iterdir())) + 1}{SUFFIX}"

    def choices(self, bench: Bench, run: Run | None = None) -> list[tuple[str, str]]:
        """Names and paths of those that may be chosen: in folders, and of the page of a run."""
        return [(name, name) for name in self.bundled] + [(path.name, str(path)) for path in self._all(bench, run)]

    def chosen(self, run: Run, value: str | None) -> str | Path:
        """The file that was chosen, or the name of a bundled one.

        Raises:
            UsageError: none was, or one that this page may not read.
        """
        if not (value or "").strip():
            raise UsageError(f"train {self.noun} first, or choose the {self._form} of one")
        known: dict[str, str | Path] = {str(path): path for path in self._all(run.bench, run)}
        known |= {name: name for name in self.bundled}
        if value not in known:
            raise UsageError(
                f"{Path(str(value)).name} is no {self._word} in the folders that the workbench was opened on, nor one "
                "that this page has trained"
            )
        return known[value]

    def called(self, run: Run, path: str | Path) -> str:
        """What a line calls a file: by its path or name, or `mine.safetensors`."""
        return MINE if isinstance(path, Path) and run.folder.parent in path.parents else str(path)

    @property
    def _form(self) -> str:
        return "file"

    @property
    def _word(self) -> str:
        return self.noun.split(" ", 1)[1]

    def _kept(self, run: Run) -> Path:
        return run.folder.parent / f"{self._word}s"

    def _all(self, bench: Bench, run: Run | None) -> Sequence[Path]:
        places = [*bench.below(), *([] if run is None else [self._kept(run)])]
        return [path for place in places for path in sorted(place.glob(f"*{SUFFIX}"))]


@dataclass(frozen=True)
class TrainedNetworks(TrainedFiles):
    """Folders with a card and weights, such as `translate` writes.

    Attributes:
        kinds: `kind` of the cards that are taken.
    """

    kinds: Sequence[str] = ()

    def new(self, run: Run, method: str) -> Path:
        """Where the page's next one goes; no folder has that name yet."""
        return super().new(run, method).with_suffix("")

    def called(self, run: Run, path: str | Path) -> str:
        """What a line calls a folder: by its path, or `mine`."""
        return super().called(run, path).removesuffix(SUFFIX)

    def choices(self, bench: Bench, run: Run | None = None) -> list[tuple[str, str]]:
        """Names with kinds, and paths, or names of those that are bundled."""
        known = [(name, BUNDLED / name) for name in self.bundled] + [(str(p), p) for p in self._all(bench, run)]
        return [(f"{path.name} ({_kind(path)})", value) for value, path in known]

    def kind(self, path: str | Path) -> str:
        """What the card of one that was chosen says it is."""
        return _kind(BUNDLED / path if str(path) in self.bundled else Path(path))

    @property
    def _form(self) -> str:
        return "folder"

    def _all(self, bench: Bench, run: Run | None) -> Sequence[Path]:
        kept = [] if run is None or not self._kept(run).is_dir() else sorted(self._kept(run).iterdir())
        return [path for path in (*bench.below(), *kept) if _kind(path) in self.kinds]


def _kind(folder: Path) -> str:
    """Of the network in a folder, of either format; empty where there is none."""
    if (kind := folder_kind(folder)) is not None:
        return kind
    try:
        return str(read_json_object(folder / "card.json", "settings").get("kind", ""))
    except (CheckpointError, OSError):
        return ""
