"""The lines that give a result again without the page: one of Python, one of shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.documents import json_text

if TYPE_CHECKING:
    from binderclip.tasks.request import Request

SHORT = 4
"""Pictures that a line names one by one."""
PICTURES = "pictures"
"""What a line calls a folder of pictures that were uploaded."""


@dataclass(frozen=True)
class Equivalent:
    """How to get a result again.

    Attributes:
        python: one line for each thing that was done.
        shell: the same with `binderclip`; a run of several settings has a line for each.
        request: the same as the document of `--from`; empty where the verb takes none yet.
    """

    python: str
    shell: str
    request: str = ""

    def without(self, place: Path) -> Equivalent:
        """The same lines, in which what lies in a folder is called by its name there."""
        return Equivalent(*(text.replace(f"{place}/", "") for text in (self.python, self.shell, self.request)))

    @classmethod
    def of(cls, *requests: Request) -> Equivalent:
        """All three of a request; of several, one after the other."""
        return cls(
            "\n".join(each.python() for each in requests),
            "\n".join(each.shell() for each in requests),
            "\n".join(json_text(each.as_document()) for each in requests),
        )


def named_pictures(paths: Sequence[Path], folder: Path | None = None) -> list[str]:
    """What a line calls the pictures of a run.

    Args:
        paths: of the pictures.
        folder: the folder on this machine that they all come from; None for uploads, which are called by their own
            names where they are few and differ, else as a folder `pictures/` for the user to put them in.
    """
    if folder is not None:
        return [str(folder)]
    names = [path.name for path in paths]
    if len(names) <= SHORT and len(set(names)) == len(names):
        return names
    return [f"{PICTURES}/"]
