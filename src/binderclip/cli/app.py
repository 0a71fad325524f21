"""The Typer application, and the one place where errors become messages and exit codes.

A verb is a task of `binderclip.tasks`. Where its result is printed in a way of its own, or it has several commands, it
is a file or folder in `verbs/` whose `register` adds them to an application. It is imported when it is called, and its
heavy imports stand inside the function, so `binderclip --help` answers at once.
Exit codes: 0 done, 2 bad usage, 1 failed, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import typer.core
import typer.main

from binderclip.cli.panels import FIRST, PANELS, VERBS
from binderclip.cli.shared.interrupts import interruptible
from binderclip.cli.shared.output import printable
from binderclip.errors import BinderclipError, UsageError, short_values, was_interrupted

MOST_SAID = 550
"""Characters of an error message; what a user wrote may stand in it many times."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

# Typer's own copy of click keeps it where only its children are public.
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
if TYPE_CHECKING:
    Context = typer.Context
else:  # what it makes is of click's class, of which typer.Context is a child
    Context = next(kind for kind in typer.Context.__mro__ if kind.__name__ == "Context" and kind is not typer.Context)


class _Verbs(typer.core.TyperGroup):
    """The verbs by panel, each imported when it is called; keeps its own errors short."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in VERBS and cmd_name not in self.commands:
            self.commands[cmd_name] = typer.main.get_group(verb_app(cmd_name)).commands[cmd_name]
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in VERBS:
            with self._named():  # near names are suggested from all of them
                return super().resolve_command(ctx, args)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._named():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        with self._named():
            return super().shell_complete(ctx, incomplete)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """In here every verb is its name, panel and line; none is imported."""
        imported = self.commands
        self.commands = {
            verb: typer.core.TyperCommand(name=verb, help=line, short_help=line, rich_help_panel=panel)
            for panel, verbs in PANELS.items()
            for verb, line in verbs.items()
        }
        try:
            yield
        finally:
            self.commands = imported

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _said_shortly():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _said_shortly():
            return super().invoke(ctx)


@contextlib.contextmanager
def _said_shortly() -> Iterator[None]:
    """What Typer would answer at length or not at all: long values, Ctrl-C, a reader that has gone."""
    try:
        yield
    except _ClickException as error:
        error.message = _short(error.message.replace("Value error, ", "", 1), 160)
        raise
    except BrokenPipeError:
        # `binderclip papers | head` has seen enough.
        _forget_stdout()
        raise SystemExit(0) from None
    except (Exception, KeyboardInterrupt) as error:
        if was_interrupted(error):
            fail("interrupted", INTERRUPTED)
        raise


app = typer.Typer(
    name="binderclip",
    cls=_Verbs,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Contrastive image-text models and the gradients that train them. Everything works offline with the bundled "
    "models; `--model open_clip:ViT-B-32/openai` or `hf:openai/clip-vit-base-patch32` uses a real checkpoint.",
)


def _version(show: bool) -> bool:
    if show:
        from binderclip import __version__

        typer.echo(f"binderclip {__version__}")
        raise typer.Exit
    return show


@app.callback()
def _root(
    ctx: Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(FIRST, nl=False)


def verb_app(verb: str) -> typer.Typer:
    """An application of one verb alone, a command or a group of commands.

    Args:
        verb: one of `VERBS`.
    """
    from binderclip.cli.shared.verb import VerbApp

    alone = VerbApp(rich_markup_mode="markdown", pretty_exceptions_enable=False)
    name = verb.replace("-", "_")
    module = f"binderclip.cli.verbs.{name}"
    if importlib.util.find_spec(module) is None:  # a task whose result is printed as any other
        from binderclip import tasks
        from binderclip.cli.shared.task_command import add_task

        add_task(alone, getattr(tasks, name))
    else:
        importlib.import_module(module).register(alone)
    return alone


def fail(message: str, code: int = 1) -> NoReturn:
    """Print a short error to stderr and leave with `code`."""
    # Where nobody reads stderr any more, the code still tells.
    with contextlib.suppress(OSError):
        typer.secho(f"error: {_short(message, MOST_SAID)}", fg=typer.colors.RED, err=True)
    raise SystemExit(code)


def _leave_at_once() -> NoReturn:
    """End an interrupted process that has nothing to keep, without another line of anybody's."""
    with contextlib.suppress(SystemExit):
        fail("interrupted", INTERRUPTED)
    os._exit(INTERRUPTED)


def _short(message: str, most: int) -> str:
    message = printable(short_values(message))
    return message if len(message) <= most else f"{message[: most * 2 // 3]} ... {message[-(most // 3 - 5) :]}"


def _short_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.secho(f"note: {_short(str(message), MOST_SAID)}", fg=typer.colors.YELLOW, err=True)


def main() -> None:
    """Run the command line; every error raised on purpose becomes one short message, never a traceback."""
    # A warning's file and line are for programmers.
    warnings.showwarning = _short_warning
    for stream in (sys.stdout, sys.stderr):
        # A file's name need not be text; what a terminal or JSON cannot hold is written as \udcff.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            if any("\0" in word for word in sys.argv):
                raise UsageError("an argument has a NUL character in it")
            with interruptible(_leave_at_once):
                app()
        finally:
            # Here, so that a full disk behind stdout is an error like any other.
            sys.stdout.flush()
    except BinderclipError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        raise SystemExit(0) from None
    except OSError as error:
        _forget_stdout()
        where = f" {error.filename}" if error.filename else ""
        code = UsageError.exit_code if error.errno == errno.ENAMETOOLONG else 1
        fail(f"{error.strerror or error}{where and ':' + where}", code)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        fail(f"not enough memory; try a smaller --size or --batch-size, or --dtype bfloat16 ({str(error)[:120]})")


def _forget_stdout() -> None:
    """Keep the interpreter from writing at its end what could not be written."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


def _out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError is a RuntimeError; on a processor torch raises a plain one.
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
