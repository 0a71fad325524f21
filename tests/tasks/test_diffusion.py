"""Fields of the tasks that run a diffusion model."""

from __future__ import annotations

import subprocess
import sys

import pytest

from binderclip.errors import UsageError
from binderclip.tasks.diffusion import parse_size, size_text


def test_a_size_is_height_and_width() -> None:
    assert parse_size("64x256") == (64, 256)
    assert parse_size(" 64X32 ") == (64, 32)
    assert size_text((64, 256)) == "64x256"
    assert parse_size(None) is None
    assert parse_size([8, 16]) == [8, 16]  # of a JSON document


@pytest.mark.parametrize("text", ["64", "64x", "axb", "64x-1", "7x64", "64x99999", "", "64 x 256", "64x256x3", "٣x٤"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        parse_size(text)


def test_the_fields_need_no_library_of_tensors() -> None:
    program = "import sys, binderclip.tasks.diffusion; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
