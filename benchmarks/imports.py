"""How much `import binderclip` costs beyond torch's own import, which nearly every user pays anyway."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness import Row, in_child, row

CODE = """
import json, sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
{extra}
print(json.dumps({{"torch": middle - start, "extra": time.perf_counter() - middle}}))
"""


def run() -> list[Row]:
    """Import time of binderclip, and of its models room, beside that of torch, each in fresh processes."""
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
        note="registers our architectures with both, so it cannot do without them",
    )
    return [replace(package, met=package.ours <= 500), models]
