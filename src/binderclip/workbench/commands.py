"""The lines that give a result again without the page: one of Python, one of shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.documents import json_text
from binderclip.models.files.registry import DEFAULT

if TYPE_CHECKING:
    from binderclip.tasks.request import Request
    from binderclip.workbench.tab import ChosenPictures

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

    @classmethod
    def of(cls, *requests: Request) -> Equivalent:
        """All three of a request; of several, one after the other."""
        return cls(
            "\n".join(each.python() for each in requests),
            "\n".join(each.shell() for each in requests),
            "\n".join(json_text(each.as_document()) for each in requests),
        )


class Arguments(tuple[object, ...]):
    """Words of a line that are no options: files, a caption, what is searched for."""


def shell_line(*words: object) -> str:
    """A line of shell from its words, quoted where they need it; None and empty lists are left out.

    `Arguments` stand where they are given, or, where one begins with a dash and would be an option, behind `--`.
    """
    flat: list[object] = []
    last: list[object] = []
    for word in words:
        if isinstance(word, Arguments) and any(str(each).startswith("-") for each in word):
            last += word
        elif isinstance(word, (list, tuple)):
            flat += word
        elif word is not None:
            flat.append(word)
    return " ".join(shlex.quote(str(word)) for word in [*flat, *(["--", *last] if last else [])])


def model_words(model: str, device: str, usual: str = DEFAULT) -> list[str]:
    """The options of a line that say which model, and where it runs; those that are the verb's own are left out."""
    return [*(["--model", model] if model != usual else []), *device_words(device)]


def device_words(device: str) -> list[str]:
    """The option of a line that says where the model runs, unless on the CPU."""
    return ["--device", device] if device != "cpu" else []


def device_argument(device: str) -> str:
    """What a call in Python ends in where the model is not on the CPU: `, device='cuda'`."""
    return "" if device == "cpu" else f", device={device!r}"


def python_load(model: str, device: str, function: str = "load") -> str:
    """The call that loads a model: `load('small')`."""
    return f"{function}({model!r}{device_argument(device)})"


def python_pictures(chosen: ChosenPictures) -> tuple[str, str]:
    """What a line of Python calls the pictures of a run, and the import that this needs, ending in `; `."""
    names = chosen.names()
    if chosen.folder is None and names != [f"{PICTURES}/"]:
        return repr(names), ""
    return f"list_images({names[0]!r})", "from binderclip.data import list_images; "


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
