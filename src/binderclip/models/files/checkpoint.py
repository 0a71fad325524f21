"""Weight files, looked at before anything reads them.

Only tensors are ever read: safetensors, or PyTorch archives through `weights_only=True`. What is something else says so
in one line instead of running code or failing deep inside a library.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from binderclip.documents import parse_json
from binderclip.errors import BinderclipError, CheckpointError, MissingDependency, NotSupported
from binderclip.settings import brief

T = TypeVar("T")
_ADVICE = "convert it to safetensors where you trust it"


def check_weights_file(path: str | Path) -> Path:
    """The path of a weight file that looks like what its name says.

    Raises:
        CheckpointError: no such file, an empty one, or another kind of file under this name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError(f"{path} is empty")
    kind = _kind(path, head)
    if path.suffix == ".safetensors" and kind != "safetensors":
        raise CheckpointError(f"{path} is not a safetensors file: it holds {kind}, which is not read under this name")
    if path.suffix != ".safetensors" and kind == "safetensors":
        raise CheckpointError(f"{path} is a safetensors file: rename it to {path.stem}.safetensors")
    if kind == "a TorchScript program":
        raise CheckpointError(f"{path} holds a TorchScript program, not weights alone; it is not run: {_ADVICE}")
    return path


def _kind(path: Path, head: bytes) -> str:
    if head[:4] == b"PK\x03\x04":
        try:
            names = zipfile.ZipFile(path).namelist()
        except zipfile.BadZipFile:
            return "a damaged PyTorch archive"
        return "a TorchScript program" if any("/code/" in name for name in names) else "a PyTorch archive"
    # Before the kinds that one byte tells: a safetensors file starts with the length of its header, whose low byte may
    # be any, 0x80 and 0x93 among them.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "safetensors"
    if head[:1] == b"\x80":
        return "a Python pickle"
    if head[:6] == b"\x93NUMPY":
        return "a NumPy array"
    if head.lstrip()[:1] == b"<" or head.startswith(b"version https://git-lfs"):
        return "text (an error page or a Git LFS pointer, not the weights themselves)"
    return "something unknown or cut short"


def guarded(read: Callable[[], T], source: str | Path, model: str) -> T:
    """Run `read`, turning what a bad weight file makes libraries raise into one short `CheckpointError`.

    Args:
        read: reads and loads the weights.
        source: the file or name, for the message.
        model: what the weights are for, for the message.
    """
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            # torch remarks on the pickle protocol of files that are then refused.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return read()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} is a pickle with more than tensors in it (or is damaged); it is not read: {_ADVICE}"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{source} is a damaged or incomplete safetensors file ({error})") from error
    except EOFError as error:
        raise CheckpointError(f"{source} ends too early: it is incomplete") from error
    except BinderclipError:
        raise
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or first_words(error)}") from error
    except Exception as error:  # what a tensor of the wrong kind makes a library raise is the library's choice
        raise CheckpointError(f"{source} does not fit {model}: {first_words(error)}") from error


def configured(read: Callable[[], T], source: str | Path) -> T:
    """Run `read`, which builds something from a file's values, turning what wrong values make libraries raise into one
    short `CheckpointError`.

    Args:
        read: builds it.
        source: the file, for the message.
    """
    try:
        return read()
    except (CheckpointError, NotSupported, MissingDependency):
        raise
    except Exception as error:  # values of a wrong type fail wherever a library first uses them
        raise CheckpointError(f"{source} holds something that cannot be used: {first_words(error)}") from error


def read_json_object(path: Path, *parts: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: of the file.
        parts: keys that, where they are there, must hold objects themselves; `a.b` is b inside a.

    Raises:
        CheckpointError: it cannot be read, is no JSON, no object, or one of the parts is none.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {first_words(error)}") from error
    for part in ("", *parts):
        value = document
        for key in part.split(".") if part else ():
            value = value.get(key, {})
        if not isinstance(value, dict):
            where = f"{part!r} in {path}" if part else str(path)
            raise CheckpointError(f"{where} must be an object {{...}}, and is {brief(value)}")
    return document


def check_weights_finite(state: Mapping[str, Any], source: str | Path) -> None:
    """Refuse weights that are no numbers, which give nonsense everywhere and an error nowhere.

    Costs one pass over the weights, at the speed of memory.

    Args:
        state: name -> tensor, such as a module's `state_dict()`.
        source: whose they are, for the message.

    Raises:
        CheckpointError: a parameter or buffer holds NaN or an infinity.
    """
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.is_floating_point():
            continue
        # One NaN or infinity makes the sum one; a sum too large for float32 is looked at again.
        if bool(tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).isfinite()):
            continue
        wrong = int((~tensor.isfinite()).sum())
        if wrong:
            raise CheckpointError(
                f"{source}: {wrong} of the {tensor.numel()} numbers of {name} are NaN or infinite (in {tensor.dtype}); "
                "the training that made these weights broke down, or their precision is too low"
            )


def first_words(error: BaseException, limit: int = 240) -> str:
    """The head of a message that may list every parameter of a model."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0] + " ..."
