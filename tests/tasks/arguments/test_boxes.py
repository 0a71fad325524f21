"""Files of boxes that somebody wrote on purpose: one short error, never a traceback."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from binderclip.errors import DataError
from binderclip.tasks.arguments.boxes import read_boxes
from binderclip.tasks.verbs.classify.zero_shot import read_image_boxes

DEEP = "[" * 100_000
LONG = "x" * (csv.field_size_limit() + 1)


@pytest.mark.parametrize("text", [DEEP, '{"boxes": ' + "1" * 5000 + "}", f"x0,y0,x1,y1\n{LONG},1,2,3\n", f"{LONG}\n"])
def test_boxes_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boxes.txt"
    path.write_text(text)
    for read in (lambda: read_boxes(path, (10, 10)), lambda: read_image_boxes(path)):
        with pytest.raises(DataError, match=r"boxes\.txt") as caught:
            read()
        assert len(str(caught.value)) < 600 + len(str(path))
