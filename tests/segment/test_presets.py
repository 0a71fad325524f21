"""Presets by name: the table knows what the files hold, and a file is loaded when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from binderclip.segment import CHOICES, DEPARTURES, PRESETS, SUMMARIES, presets
from binderclip.segment.presets import FILES


def test_the_table_knows_what_the_files_hold() -> None:
    folder = Path(presets.__file__).parent
    assert set(FILES) == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    held = {file: import_module(f"binderclip.segment.presets.{file}") for file in FILES}
    assert {file: tuple(module.PRESETS) for file, module in held.items()} == FILES
    assert {file: tuple(module.SUMMARIES) for file, module in held.items()} == FILES
    names = [name for names in FILES.values() for name in names]
    assert list(PRESETS) == list(SUMMARIES) == names
    assert len(PRESETS) == len(names)
    assert set(DEPARTURES) == {name for module in held.values() for name in getattr(module, "DEPARTURES", {})}
    assert "decomposition" not in DEPARTURES
    assert "magic" not in PRESETS


def test_every_choice_makes_a_part() -> None:
    for choices in CHOICES.values():
        for name, make in choices.items():
            assert make() is not None, name


def test_a_preset_loads_its_own_parts_alone() -> None:
    program = "import sys; from binderclip.segment import parts_of; parts_of('photograph'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("binderclip.segment.")]
    assert "binderclip.segment.presets.photograph" in ours
    others = ("presets.basic", "presets.trident", "promptable", "parts.splicing", "refine.pamr", "trained")
    assert [name for name in ours if name.removeprefix("binderclip.segment.").startswith(others)] == []
