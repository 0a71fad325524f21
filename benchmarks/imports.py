"""What is imported before anything is done: by `import binderclip`, by `binderclip --help`, by `classify`.

The package is timed beyond torch's own import, which nearly every user pays anyway; the verbs are whole programs, in
processor seconds of one thread, which a busy machine changes little.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Row, in_child, row

CODE = """
import json, sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
{extra}
print(json.dumps({{"torch": middle - start, "extra": time.perf_counter() - middle}}))
"""

# One line a part, in the order in which the bare imports below come to them.
PARTS = {
    "torch": "import torch",
    "torch._dynamo": "import torch._dynamo",
    "torchvision": "import torchvision",
    "timm": "import timm",
    "transformers": "from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig",
    "open_clip": "import open_clip",
}
PROFILE = """
import json, time
found = {}
def part(name, line):
    start = time.process_time()
    exec(line, {})
    found[name] = time.process_time() - start
"""
BARE = "import torch, timm, open_clip"
WHO = {
    "torch._dynamo": "with sympy; torchvision.ops.roi_align imports it",
    "torchvision": "timm.layers and open_clip.transform import it, whole",
    "timm": "every file of its model zoo, and huggingface_hub: timm/__init__.py imports timm.models",
    "transformers": "open_clip.hf_model imports four of its names, for text towers that the bundled models do not have",
}


def run() -> list[Row]:
    """Imports of the package and of the verbs, each in fresh processes."""
    return [*package_rows(), *verb_rows(), *profile_rows()]


def processor_seconds(*words: str | Path) -> float:
    """Processor seconds, user and system, of a Python program on one thread."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def verb_rows(repeats: int = 5) -> list[Row]:
    """`--help` beyond the interpreter, and `classify` of one picture beside the bare imports."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "red.png"
        Image.new("RGB", (128, 128), (200, 30, 30)).save(picture)
        programs: dict[str, tuple[str | Path, ...]] = {
            "python": ("-c", "pass"),
            "help": ("-m", "binderclip", "--help"),
            "bare": ("-c", BARE),
            "classify": ("-m", "binderclip", "classify", picture, "--labels", "red,green"),
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(-1, repeats):  # the first round only fills the file cache
            for name, words in programs.items():
                seconds = processor_seconds(*words)
                if turn >= 0:
                    times[name].append(seconds)
    beyond = [ours - plain for ours, plain in zip(times["help"], times["python"], strict=True)]
    first = row(
        "binderclip --help, beyond the interpreter",
        beyond,
        times["python"],
        speedup=False,
        peer_name="python -c pass",
        goal="at most 0.25 s",
        note="Typer and rich; no room is loaded",
    )
    classify = row(
        "binderclip classify of one picture, the whole program",
        times["classify"],
        times["bare"],
        speedup=False,
        peer_name=BARE,
        goal="at most 0.7x",
        target=0.7,
        note="the bundled models come in torch alone where they only encode (`load_encoder`); a tower that is to be "
        "opened is of timm's and open_clip's classes and brings what they import",
    )
    return [replace(first, met=first.ours <= 250), classify]


def profile_rows(repeats: int = 3) -> list[Row]:
    """What the bare imports consist of: the shares of their parts, imported one after the other."""
    lines = [f"part({name!r}, {line!r})" for name, line in PARTS.items()]
    code = "\n".join([PROFILE, *lines, "print(json.dumps(found))"])
    found = [in_child(code) for _ in range(repeats + 1)][1:]
    whole = [sum(child.values()) for child in found]
    return [
        row(
            f"profile: {name}, after those above" if index else f"profile: {name}",
            [child[name] for child in found],
            whole,
            speedup=False,
            peer_name="all of them",
            note=WHO.get(name, ""),
        )
        for index, name in enumerate(PARTS)
    ]


def package_rows() -> list[Row]:
    """Import time of binderclip, and of its models room, beside that of torch."""
    lines = {"package": "import binderclip", "models": "import binderclip.models", "peers": "import open_clip, timm"}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in lines}
    for turn in range(-1, 5):  # the first round only fills the file cache
        for name, line in lines.items():
            child = in_child(CODE.format(extra=line))
            if turn >= 0:
                times[name].append(child)
    extra = {name: [child["extra"] for child in found] for name, found in times.items()}
    package = row(
        "import binderclip, beyond torch",
        extra["package"],
        [child["torch"] for child in times["package"]],
        speedup=False,
        peer_name="import torch",
        goal="at most 0.5 s",
        note="the rooms are imported on first use",
    )
    models = row(
        "import binderclip.models, beyond torch",
        extra["models"],
        extra["peers"],
        speedup=False,
        peer_name="import open_clip, timm",
        note="the packages are imported with the first model that is built of their classes",
    )
    return [replace(package, met=package.ours <= 500), models]
