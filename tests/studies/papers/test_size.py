"""Studies stay short: what is longer than a study should be is counted, and may only become less."""

from __future__ import annotations

from pathlib import Path

import binderclip.studies.papers as papers

FOLDER = Path(papers.__file__).parent
MOST = 120
"""Lines of Python of a new study; its words and conditions stand in the TOML file beside it."""
LONGER, LINES = 72, 17_239
"""Studies that are longer, and the lines of all; of before the rule. Lower them when you shorten one."""


def test_a_new_study_is_short_and_old_ones_only_become_shorter() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.glob("p*.py")}
    longer = {name: count for name, count in lines.items() if count > MOST}
    assert len(longer) <= LONGER, f"at most {MOST} lines of Python; longer are {longer}"
    assert sum(lines.values()) <= LINES + MOST * (len(lines) - 125)


def test_every_study_has_its_words_beside_it() -> None:
    modules = {path.stem for path in FOLDER.glob("p*.py")}
    assert {path.stem for path in FOLDER.glob("*.toml")} == modules
    for name in modules:
        assert "declared_study(" in (FOLDER / f"{name}.py").read_text(encoding="utf-8"), name
