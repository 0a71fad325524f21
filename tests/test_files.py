"""Files are whole or not there, with the permissions that the umask leaves; all savers go this way."""

from __future__ import annotations

import ast
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from binderclip.errors import DataError, OutputError
from binderclip.files import disk_is_full, make_folder, replace_folder, why_no_folder, write_problem, write_whole

SOURCE = Path(__file__).parents[1] / "src" / "binderclip"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda value: os.umask(value) and None
    os.umask(before)


def test_text_bytes_and_functions_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, bytes in (("one ä", "one ä".encode()), (b"two", b"two"), (lambda draft: draft.write_text("3"), b"3")):
        assert write_whole(path, content) == path
        assert path.read_bytes() == bytes
        assert os.listdir(tmp_path) == ["a.json"]


def test_half_a_surrogate_pair_costs_no_result(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a", "caf\udce9").read_bytes() == b"caf\\udce9"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (SafetensorError("I/O error: Read-only file system (os error 30)"), "Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_whatever_fails_is_named_and_the_old_file_stays(tmp_path: Path, error: Exception, reason: str) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, "old")

    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise error

    with pytest.raises(OutputError, match=rf"cannot write .*a\.bin: .*{reason}") as caught:
        write_whole(path, fail)
    assert isinstance(caught.value, DataError)
    assert caught.value.__cause__ is error
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.bin"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("wrong shape")], ids=["Ctrl-C", "a wrong value"])
def test_other_errors_pass_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_whole(tmp_path / "a", fail)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_in_the_middle_of_a_write_is_no_full_disk(tmp_path: Path) -> None:
    class CutShort:
        """A file in which the second write meets Ctrl-C; torch then cannot end its archive."""

        def __init__(self, path: Path) -> None:
            self.file, self.writes = path.open("wb"), 0

        def write(self, data: bytes) -> int:
            self.writes += 1
            if self.writes == 2:
                raise KeyboardInterrupt
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "state.pt", lambda place: torch.save({"a": torch.zeros(10_000)}, CutShort(place)))
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "a", "one")

    def fail(*args: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match="no"):
            write_whole(path, "two")
    assert (path.read_text(), os.listdir(tmp_path)) == ("one", ["a"])


def test_a_finished_file_takes_the_place(tmp_path: Path) -> None:
    path, made = write_whole(tmp_path / "a", "one"), tmp_path / "made"
    made.write_text("two")
    write_whole(path, made)
    assert (path.read_text(), os.listdir(tmp_path)) == ("two", ["a"])


def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed to the disk and what is renamed, in order, by name: of drafts without what differs."""
    events: list[str] = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def named(place: object) -> str:
        return Path(str(place)).name.split(".tmp")[0].split(f".{os.getpid()}-")[0]

    def fsync(handle: int) -> None:
        events.append(f"flush {named(os.readlink(f'/proc/self/fd/{handle}'))}")
        sync(handle)

    def moved(own: Callable[..., None]) -> Callable[[Path, Path], None]:
        def move(source: Path, target: Path) -> None:
            events.append(f"{named(source)} -> {named(target)}")
            own(source, target)

        return move

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", moved(replace))
    monkeypatch.setattr(os, "rename", moved(rename))
    return events


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files in /proc")
def test_a_file_is_flushed_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    events = flushed(monkeypatch)
    write_whole(folder / "a", "one")
    assert events == ["flush .a", ".a -> a", "flush folder"]
    events.clear()
    write_whole(folder / "a", "two", sync=False)
    assert events == [".a -> a"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of open files in /proc")
def test_a_folder_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    draft, target = place / "draft", place / "target"
    events = flushed(monkeypatch)
    for content in ("one", "two"):
        draft.mkdir()
        (draft / content).write_text(content)
        replace_folder(draft, target)
        assert (os.listdir(place), os.listdir(target)) == (["target"], [content])
    new = ["flush draft", "draft -> target", "flush place"]
    assert events == [*new, new[0], "target -> .replaced-target", *new[1:]]


def test_a_folder_that_cannot_be_moved_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, target = tmp_path / "draft", tmp_path / "target"
    for folder in (draft, target):
        folder.mkdir()
        (folder / folder.name).touch()
    rename = os.rename

    def fail(source: Path, place: Path) -> None:
        if source == draft:
            raise OSError("no")
        rename(source, place)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"):
        replace_folder(draft, target)
    assert os.listdir(target) == ["target"]
    assert sorted(os.listdir(tmp_path)) == ["draft", "target"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_umask_decides_about_a_new_file(tmp_path: Path, umask: Callable[[int], None], mask: int) -> None:
    umask(mask)
    write_whole(tmp_path / "text", "text")
    write_whole(tmp_path / "tensors", lambda draft: save_file({"a": torch.zeros(2)}, draft))
    with open(tmp_path / "plain", "w"):
        pass
    assert mode(tmp_path / "text") == mode(tmp_path / "tensors") == mode(tmp_path / "plain") == 0o666 & ~mask


def test_a_file_that_was_there_keeps_its_permissions(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "secret", "one")
    path.chmod(0o600)
    assert mode(write_whole(path, "two")) == 0o600


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for content in ("new", "newer"):
        write_whole(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_text() == content


def test_folders_and_links_to_themselves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((".", "Is a directory"), ("loop", "symbolic links"), ("no/a", "No such file")):
        with pytest.raises(OutputError, match=reason):
            write_whole(tmp_path / path, "text")
    assert os.listdir(tmp_path) == ["loop"]


@pytest.mark.parametrize("content", ["text", lambda draft: draft.write_text("text")], ids=["text", "a function"])
def test_a_pipe_is_written_into_and_never_replaced(tmp_path: Path, content: str | Callable[[Path], object]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="No such device or address"):  # where nobody reads, it is not waited for
        write_whole(pipe, content)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    while True:  # until the other thread has opened its end
        try:
            write_whole(pipe, content)
            break
        except OutputError:
            continue
    reader.join()
    assert read == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a system without /dev/full")
def test_a_device_stays_one(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left on device"):
        write_whole("/dev/full", lambda draft: save_file({"a": torch.zeros(2)}, draft))
    assert Path("/dev/full").is_char_device()
    write_whole("/dev/null", "gone")
    assert Path("/dev/null").is_char_device()


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä" * 127):
        assert write_whole(tmp_path / name, "text").read_text() == "text"


def test_a_file_that_may_grow_no_further_is_an_error_and_no_signal(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys, torch; from binderclip.files import write_whole; "
        "from safetensors.torch import save_file; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "write_whole(sys.argv[1], lambda draft: save_file({'a': torch.zeros(9999)}, draft))"
    )
    path = write_whole(tmp_path / "a.safetensors", "old")
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(f"binderclip.errors.OutputError: cannot write {path}: ")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.safetensors"])


def test_folders(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make the folder .*file: File exists"):
        make_folder(tmp_path / "file")
    assert why_no_folder(tmp_path / "file") == f"{tmp_path / 'file'} is a file: give a folder"
    assert why_no_folder("nowhere") == "there is no folder nowhere"


def test_a_full_disk_is_known_behind_other_errors() -> None:
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert disk_is_full(error)
    assert write_problem(error) == "No space left on device"
    assert not disk_is_full(RuntimeError("could not save"))


# -- every saver


WRITERS = {"write_text", "write_bytes", "save_file", "savefig", "write_table", "imsave"}
"""Calls that leave half a file where they are stopped."""
MEMORY = {"held", "drawn", "sink"}
"""Arguments that are no files."""
IN_PLACE = {
    "files.py": "is the way itself",
    "cli": "outputs of verbs have a rule of their own",
    "tasks/verbs": "the same rule",
    "workbench": "files of a session that lives as long as the page",
    "search/place.py": "a scratch file, read back at once",
    "data/made/examples.py": "pictures to try the program on",
}
"""Files and folders where that is right, and why."""


class _Unsafe(ast.NodeVisitor):
    """Writing calls that stand in no function that is handed to `write_whole`."""

    def __init__(self, safe: set[str]) -> None:
        self.safe, self.found = safe, []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in self.safe:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name == "write_whole":
            return
        spelled = ast.unparse(node.func)
        writes = name in WRITERS or spelled in ("os.replace", "os.rename", "np.save", "torch.save")
        in_memory = any(isinstance(value, ast.Name) and value.id in MEMORY for value in node.args)
        if writes and not in_memory and spelled != "writer.write_table":  # of what `ParquetWriter` has opened
            self.found.append((node.lineno, spelled))
        self.generic_visit(node)


def functions_handed_over(tree: ast.Module) -> set[str]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        value.id
        for call in calls
        if getattr(call.func, "id", "") == "write_whole"
        for value in call.args[1:]
        if isinstance(value, ast.Name)
    }


def test_every_saver_writes_whole() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if any(name == place or name.startswith(f"{place}/") for place in IN_PLACE):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seek = _Unsafe(functions_handed_over(tree))
        seek.visit(tree)
        wrong += [f"{name}:{line}: {call}" for line, call in seek.found]
    assert wrong == []


MOVES = {
    "files.py": "is the way itself",
    "workbench/trained/page_models.py": "a finished model is moved to where it stays as long as the page",
    "workbench/sessions.py": "a finished session's folder is moved aside before it is emptied",
    "workbench/tabs/make/enhance.py": "a file of a session that lives as long as the page",
    "workbench/tabs/make/translate.py": "a finished network is moved to where it stays as long as the page",
    "tasks/verbs/enhance/run.py": "a picture is written beside its place, with what it was made of, and moved",
}
"""Files that rename, and why."""


def test_nothing_is_renamed_into_its_place_but_by_files() -> None:
    moving = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            by_os = isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.replace", "os.rename", "shutil.move")
            # `str.replace` takes two arguments, `Path.replace` and `Path.rename` one.
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1
            if by_os or (call and node.func.attr in ("rename", "replace") and not node.keywords):
                moving.add(path.relative_to(SOURCE).as_posix())
    assert moving == MOVES.keys()
