"""Lines that give a result again: words survive the shell, pictures are named as people have them."""

from __future__ import annotations

import shlex
from pathlib import Path

from binderclip.workbench.commands import Arguments, model_words, named_pictures, python_load, shell_line


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


def test_what_begins_with_a_dash_is_no_option() -> None:
    assert shell_line("v", Arguments(["a.png", "b.png"]), "--top", 3) == "v a.png b.png --top 3"
    assert shell_line("v", Arguments(["a.png", "-b.png"]), "--top", 3) == "v --top 3 -- a.png -b.png"
    assert shell_line("v", Arguments([]), "--top", 3) == "v --top 3"


def test_model_and_device_are_named_where_they_are_not_the_verb_s_own() -> None:
    assert model_words("everyday", "cpu") == []
    assert model_words("small", "cpu") == ["--model", "small"]
    assert model_words("small-b", "cuda:1") == ["--model", "small-b", "--device", "cuda:1"]
    assert model_words("small-sam", "cpu", "small-sam") == []
    assert python_load("small", "cpu") == "load('small')"
    assert python_load("it's", "mps", "load_vision") == """load_vision("it's", device='mps')"""
