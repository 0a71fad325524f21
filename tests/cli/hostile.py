"""Hostile calls of the command line: every verb's own options with values that nobody means, all from one seed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import typer.main
from PIL import Image

from binderclip import cli

SECONDS = 20
"""Longest a call may take."""
SAID = 600
"""Most characters of an error message."""

GOOD: dict[tuple[str, ...], list[str]] = {
    ("classify",): ["../world/good.png", "--labels", "cat,dog"],
    ("adapt",): ["../world/classes", "--shots", "1", "--seeds", "1", "--methods", "zero-shot"],
    ("locate",): ["../world/good.png", "a cat", "--boxes", "../world/boxes.csv"],
    ("search", "index"): ["../world/pictures"],
    ("search", "query"): ["a cat", "--index", "../world/indexed"],
    ("segment",): ["../world/good.png", "--labels", "cat,dog"],
    ("segment-task",): ["../world/good.png", "--task", "the hidden animal"],
    ("segment-example",): ["../world/good.png", "--example", "../world/good.png", "--mask", "../world/good.png"],
    ("segment-evaluate",): ["scenes", "--limit", "1"],
    ("segment-presets",): [],
    ("click",): ["../world/good.png", "--point", "5,5"],
    ("masks",): ["../world/good.png"],
    ("trace",): ["../world/good.png", "--from", "2,2", "--to", "9,9"],
    ("edges",): ["../world/good.png", "--out", "made"],
    ("anomaly",): ["../world/pictures"],
    ("explain",): ["../world/good.png", "--label", "a cat"],
    ("heads",): ["small", "--images", "../world/pictures", "--texts", "../world/labels.txt"],
    ("evaluate",): ["small", "--data", "../world/classes"],
    ("quality",): ["../world/pictures"],
    ("attack",): ["small", "../world/good.png", "--labels", "cat,dog", "--steps", "1", "--max-side", "32"],
    ("detect",): ["--train", "../world/fakes", "--steps", "1", "--out", "mine.safetensors"],
    ("draw",): ["a cat", "--steps", "1", "--strokes", "1", "--size", "16", "--views", "1"],
    ("vectorize",): ["../world/good.png", "--paths", "1", "--steps", "1", "--side", "16"],
    ("generate",): [
        "a cat",
        "--from-folder",
        "../world/pictures",
        "--steps",
        "1",
        "--size",
        "16x16",
        "--out",
        "made",
    ],
    ("edit",): ["../world/good.png", "--from", "a cat", "--to", "a dog", "--steps", "1", "--out", "made"],
    ("enhance",): [
        "../world/good.png",
        "--dark",
        "../world/pictures",
        "--bright",
        "../world/classes",
        "--steps",
        "1",
        "--prompt-steps",
        "1",
        "--side",
        "16",
        "--method",
        "words",
        "--rounds",
        "1",
        "--out",
        "made",
    ],
    ("atlas",): ["../world/pictures", "--out", "made"],
    ("duplicates",): ["../world/pictures", "--out", "made"],
    ("erase",): ["../world/good.png", "--mask", "../world/good.png"],
    ("inpaint",): ["../world/good.png", "--mask", "../world/good.png", "--text", "a cat", "--steps", "1"],
    ("personalize",): ["../world/pictures", "--class", "cat", "--steps", "1"],
    ("foveate",): ["../world/good.png", "--at", "5,5", "--out", "made"],
    ("reconstruct",): ["../world/pictures", "--spacing", "2", "--resolution", "16"],
    ("translate",): ["../world/pictures", "../world/classes", "--steps", "1", "--side", "16", "--out", "made"],
    ("compress",): ["small", "--data", "openmoji", "--limit", "4", "--method", "magnitude", "--out", "made"],
    ("landscape",): ["small", "--data", "openmoji", "--limit", "2", "--points", "3"],
    ("interpolate",): ["small", "small", "--data", "openmoji", "--limit", "4", "--points", "3"],
    ("geometry",): ["small", "--data", "openmoji", "--limit", "24"],
    ("probe",): ["small", "--data", "openmoji", "--groups", "concept_split", "--limit", "24", "--draws", "100"],
    ("curate",): ["../world/classes", "--recipe", "exact-duplicates"],
    ("embed",): ["../world/classes", "--out", "made"],
    ("train",): ["../world/tiny.toml", "--check"],
    ("descriptions",): ["animals"],
    ("spikes",): ["../world/log"],
    ("papers",): ["zclip"],
    ("reproduce",): ["p162"],
    ("workbench",): ["../world/pictures", "--no-browser"],
}
"""Calls that would work; a verb that is not among them is called with nothing but hostile words."""

HOPELESS = (
    "missing.png",
    "corrupt.png",
    "junk.bin",
    "pipe",
    "empty",
    "empty.png",
    "nowhere.png",
    "loop.png",
    "deep.json",
    "cut.safetensors",
    "junk",
    "bomb.png",
    "none/x.png",
)
"""Of these no verb can make anything, wherever a picture, a folder, a recipe or a model is wanted."""
FILES = (
    *HOPELESS,
    "good.png",
    "wide.png",
    "one.png",
    "pictures",
    "mixed",
    "self",
    "list.json",
    "kinds.json",
    "digits.json",
    "nan.json",
    "keys.toml",
    "deep.toml",
    "kinds.toml",
    "latin.txt",
    "nul.txt",
    "long.txt",
    "nan.csv",
    "field.csv",
    "badmodel",
    "badhf",
    "badhead",
    "badindex",
    "badlog",
    "tiny.toml",
    "caf\udce9.png",
    "good.png/x.png",
    "labels.txt",
    "16bit.png",
    "bad.tar",
    "boxes.csv",
)
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "1" + "0" * 25,
    "-1" + "0" * 25,
    "999999999",
    "9" * 5000,
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "0.5",
    "",
    " ",
    "x",
    "²",
    "0x10",
    "1_0",
    "٣",
)
WORDS = ("", " ", ",", ",,", "@", "@../world/missing", "@../world/latin.txt", "@../world/long.txt", "@../world/nul.txt",
         "@../world/pipe", "@/dev/null", "[red]x[/]", "[/]", "x" * 5000, "a," * 2500, "b " * 2500, "\x1b[2J", "🐈" * 50,
         "caf\udce9", "{}", "{", "{}{0}", "{x!r}", "%s", "a=b", "=", "/dev/null", "/dev/full",
         "/proc/self/mem", "open_clip:", "open_clip:x/y", "hf:", "hf:../world/badhf", "small/../small",
         "small-dino", "small-sam", "cpu:99", "cuda:" + "9" * 30, "meta", "float8", "float16",
         "bfloat16", "all", "auto", "none", "max",
         "tiles=" + "9" * 30, "tiles=0", "tiles=2", "crops", "context", "pictures", "animals", "photo", "crop", "blur",
         "circle", "fgvp", "hungarian", "x-{0..99999999999}.tar", "x-{0..9", "pipe:touch owned", "1,2", "nan,nan",
         "1,2,3,4", "nan,0,1,inf", "0,0,1e400,1", "1,1,0,0", "-1,-1", "p999", "--", "-", "é", "\n", "a\tb", "cat,cat",
         "cat", "a red car", "saliency,gradcam", "smoothgrad", "integrated_gradients", "gradeclip", "value,sclip",
         "sclip", "itaclip", "scenes", "digits", "clap", "norm", "{name = 'zclip', z_thresh = nan}", "{name = 3}",
         "linear-probe", "http://127.0.0.1:9/x", "out.png", "out.json", "out.html", "out", "good",
         "none/out.png")  # fmt: skip
SETTINGS = tuple(
    f"{key}={value}"
    for key in ("n_samples", "noise", "steps", "layer", "layers", "stage.lr", "lr", "samples", "epochs", "batch_size",
                "model.embed_dim", "model.context", "model.vision.layers", "model.vision.patch_size", "model.arch",
                "model.tokenizer", "model", "stage", "stage.0", "seed", "clip", "clip.name", "clip.max_norm", "data",
                "data.0.limit", "data.0.name", "data.0.0.x", "rule.scale", "rule", "resolution.size",
                "resolution.stride", "resolution", "refine", "windows", "text.alpha", "last_block.map", "views", "x.y",
                "", ".", "size")
    for value in ("1e999", "-1", "0", "nan", "[]", "", "[[[[", "1" + "0" * 25, "{}", "true", "'x'", "1e-400", "2",
                  "none", "x" * 3000, "[nan]", "9" * 5000)
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        words: after `binderclip`.
        hopeless: nothing can come of it, so that it must not end well.
    """

    words: tuple[str, ...]
    hopeless: bool

    def shown(self) -> str:
        """For people, long words cut."""
        return " ".join(repr(word if len(word) < 60 else f"{word[:30]}...({len(word)})") for word in self.words)


def verbs() -> dict[tuple[str, ...], list[Any]]:
    """Every verb with its parameters, from the tree of commands."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
        if hasattr(command, "list_commands"):
            for name in command.list_commands(None):
                yield from walk(command.get_command(None, name), (*path, name))
        else:
            yield path, command.params

    return dict(walk(typer.main.get_command(cli.app), ()))


def hostile_calls(seed: int, count: int) -> Iterator[Call]:
    """Calls that are right but for one to three words; no verb comes again before all have come.

    Args:
        seed: the same seed gives the same calls.
        count: how many.
    """
    rng, known = random.Random(seed), verbs()
    left: list[tuple[str, ...]] = []
    for _ in range(count):
        left = left or rng.sample(list(known), len(known))
        verb = left.pop()
        yield _hostile(rng, verb, known[verb])


def _hostile(rng: random.Random, verb: tuple[str, ...], params: list[Any]) -> Call:
    arguments = [each for each in params if each.param_type_name == "argument"]
    choices = [each for each in params if each.param_type_name == "option" and "--help" not in each.opts]
    words, hopeless = list(GOOD.get(verb, [])), False
    if not words or (arguments and rng.random() < 0.35):
        # The first positional word, or all of them for a verb that is not known.
        for place, each in enumerate(arguments):
            value = _value(rng)
            if words and place == 0:
                words[0] = value
                hopeless = each.name in ("images", "image", "folder", "data", "recipe", "run") and _is_hopeless(value)
            elif not words or len(words) <= place:
                words.append(value)
    for each in rng.sample(choices, min(len(choices), rng.choice((0, 1, 1, 2, 3)))):
        if getattr(each, "is_flag", False):
            words.append(rng.choice([*each.opts, *each.secondary_opts]))
        else:
            words += [rng.choice(each.opts), *(_value(rng, each) for _ in range(each.nargs))]
    return Call((*verb, *words), hopeless)


def _value(rng: random.Random, option: Any = None) -> str:
    """A hostile value; mostly of the kind that the option is made for, so that it comes far."""
    least = getattr(option, "min", getattr(getattr(option, "type", None), "min", None))
    chance = rng.random()
    if least is not None and chance < 0.85:
        return rng.choice(NUMBERS)
    if getattr(option, "metavar", None) == "KEY=VALUE" and chance < 0.85:
        return rng.choice(SETTINGS)
    if chance < 0.1:
        return rng.choice(NUMBERS)
    return rng.choice(WORDS) if chance < 0.5 else f"../world/{rng.choice(FILES)}"


def _is_hopeless(value: str) -> bool:
    return value.removeprefix("../world/") in HOPELESS and value.startswith("../world/")


def make_world(world: Path) -> None:
    """The files that the calls name, good ones and bad ones.

    Args:
        world: a folder to be made.
    """
    rng = random.Random(0)
    for name in ("pictures", "mixed", "empty", "junk", "classes/cat", "classes/dog", "badmodel", "badhf", "badhead",
                 "badindex", "badlog", "self", "fakes/0_real", "fakes/1_fake/made"):  # fmt: skip
        (world / name).mkdir(parents=True)
    good = Image.frombytes("RGB", (40, 32), rng.randbytes(40 * 32 * 3))
    for name in ("good.png", "pictures/a.png", "pictures/b.jpg", "pictures/[red]c.png", "mixed/a.png", "caf\udce9.png",
                 "self/a.png", *[f"classes/{kind}/{n}.png" for kind in ("cat", "dog") for n in range(4)],
                 *[f"fakes/{kind}/{n}.png" for kind in ("0_real", "1_fake/made") for n in range(12)]):  # fmt: skip
        good = Image.frombytes("RGB", (40, 32), rng.randbytes(40 * 32 * 3))
        good.save(world / name)
    good.resize((2000, 1)).save(world / "wide.png")
    good.resize((1, 1)).save(world / "one.png")
    Image.new("I;16", (20, 20), 700).save(world / "16bit.png")
    whole = (world / "good.png").read_bytes()
    Image.new("1", (20_000, 20_000)).save(world / "bomb.png")
    deep = "[" * 100_000
    for name, content in {
        "corrupt.png": whole[:300], "mixed/b.png": whole[:300], "junk/x.png": whole[:60], "empty.png": b"",
        "junk.bin": rng.randbytes(4000), "junk/y.jpg": rng.randbytes(500),
        "cut.safetensors": b"\x40\0\0\0\0\0\0\0{\"a\":",
        "bad.tar": rng.randbytes(3000), "nul.txt": b"cat\0dog\n\0", "latin.txt": "café".encode("latin-1"),
    }.items():  # fmt: skip
        (world / name).write_bytes(content)
    for name, text in {
        "deep.json": deep, "badmodel/open_clip_config.json": deep, "badhf/config.json": deep, "badhead/head.json": deep,
        "badindex/binderclip-index.json": deep, "badlog/clip.jsonl": deep + "\n[1]\nnull\n{}\n",
        "deep.toml": f"a = {deep}",
        "keys.toml": "a." * 50_000 + "a = 1", "list.json": "[1, 2]", "digits.json": "9" * 5000, "nan.json": "NaN",
        "kinds.json": json.dumps({"boxes": [None], "cat": {"x": [1]}, "good.png": [[1]], "dog": None, "images": 3}),
        "kinds.toml": "data = 3\nstage = [1]\nmodel = [[]]\n", "long.txt": "x" * 5000 + "\n" + "y" * 5000,
        "nan.csv": "image,x0,y0,x1,y1\ngood.png,nan,0,inf,1e400\n", "field.csv": '"' + "x" * 200_000 + '",1,2,3,4\n',
        "boxes.csv": "1,1,20,20\n5,5,30,30,right\n", "labels.txt": "cat\ndog\nhouse\n",
        "tiny.toml": 'data = [{name = "noto-emoji", split = "val", limit = 48}]\nsamples = 96\nbatch_size = 16\n',
    }.items():  # fmt: skip
        (world / name).write_text(text)
    for name, target in {"nowhere.png": "gone", "loop.png": "loop.png", "self/self": "../self"}.items():
        (world / name).symlink_to(target)
    os.mkfifo(world / "pipe")


def listing(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Every entry below the folders, links not followed: path -> size and time of change."""
    found = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                path = Path(place, name)
                state = path.lstat()
                if not stat.S_ISFIFO(state.st_mode):
                    found[path] = (state.st_size, state.st_mtime_ns)
    return found


class TooLong(BaseException):
    """A call did not end; no `except Exception` may take it for its own."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TooLong` in what takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
