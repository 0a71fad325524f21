"""How much `import binderclip` costs beyond torch's own import, which nearly every user pays anyway."""

from __future__ import annotations

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
    """Import time of binderclip beside that of torch, each in fresh processes."""
    package = [in_child(CODE.format(extra="import binderclip")) for _ in range(5)]
    rows = [
        row(
            "import binderclip, beyond torch",
            [child["extra"] for child in package],
            [child["torch"] for child in package],
            speedup=False,
            peer_name="import torch",
            goal="at most 0.5 s",
            note="the rooms are imported on first use",
        )
    ]
    median = rows[0].ours / 1e3
    return [Row(**{**rows[0].as_dict(), "met": median <= 0.5})]
