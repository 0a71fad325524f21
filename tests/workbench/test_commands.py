"""Lines that give a result again: words survive the shell, pictures are named as people have them."""

from __future__ import annotations

import shlex
from pathlib import Path

from binderclip.workbench.commands import named_pictures, shell_line


def test_every_word_survives_the_shell() -> None:
    words = ["binderclip", "classify", "my cat.jpg", "--labels", "cat,it's $HOME; rm -rf `x`", "a*b"]
    assert shlex.split(shell_line(*words)) == words


def test_lists_are_laid_flat_and_what_is_not_there_is_left_out() -> None:
    assert shell_line("a", ["b", 3], None, [], "c") == "a b 3 c"


def test_few_uploads_are_named_and_many_are_a_folder() -> None:
    paths = [Path(f"/x/{n}/{n}.png") for n in range(6)]
    assert named_pictures(paths[:3]) == ["0.png", "1.png", "2.png"]
    assert named_pictures(paths) == ["pictures/"]
    # Two of one name cannot lie in one folder of the user's.
    assert named_pictures([Path("/x/1/a.png"), Path("/x/2/a.png")]) == ["pictures/"]
    assert named_pictures(paths, Path("/home/me/holiday")) == ["/home/me/holiday"]
