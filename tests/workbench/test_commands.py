"""Lines that give a result again: pictures are named as people have them."""

from __future__ import annotations

from pathlib import Path

from binderclip.workbench.commands import named_pictures


def test_few_uploads_are_named_and_many_are_a_folder() -> None:
    paths = [Path(f"/x/{n}/{n}.png") for n in range(6)]
    assert named_pictures(paths[:3]) == ["0.png", "1.png", "2.png"]
    assert named_pictures(paths) == ["pictures/"]
    # Two of one name cannot lie in one folder of the user's.
    assert named_pictures([Path("/x/1/a.png"), Path("/x/2/a.png")]) == ["pictures/"]
    assert named_pictures(paths, Path("/home/me/holiday")) == ["/home/me/holiday"]
