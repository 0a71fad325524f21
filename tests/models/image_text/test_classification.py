from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models.image_text.classification import Classification, check_top, probabilities

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]])


def make(**more) -> Classification:
    return Classification(["a", "b", "c"], LOGITS.softmax(-1), LOGITS, **more)


def test_top_is_sorted_by_hand() -> None:
    assert make().best == ["b", "a"]
    assert [[label for label, _ in row] for row in make().top(2)] == [["b", "c"], ["a", "b"]]
    (label, prob), *_ = make().top(1)[1]
    assert label == "a"
    assert prob == pytest.approx(1 / (1 + torch.exp(torch.tensor(-5.0)) + torch.exp(torch.tensor(-6.0))).item())


def test_table_names_the_images_and_shows_as_many_as_asked() -> None:
    lines = make(keys=["x.png", "long.png"], shown=1).table().splitlines()
    assert lines == ["x.png     b 0.665", "long.png  a 0.991"]
    assert make().table(3).splitlines()[0].split() == ["0", "b", "0.665", "c", "0.245", "a", "0.090"]


def test_probabilities() -> None:
    torch.testing.assert_close(probabilities(LOGITS, "sigmoid")[0, 1], torch.tensor(1 / (1 + 2.718281828459045**-3)))
    with pytest.raises(UsageError, match="softmax"):
        probabilities(LOGITS, "relu")  # type: ignore[arg-type]


def test_top_is_checked() -> None:
    assert check_top(9, ["a"]) == 1
    assert check_top(None, ["a"]) is None
    for bad in (0, 1.5, True):
        with pytest.raises(UsageError, match="top"):
            check_top(bad, ["a"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="top"):
        make().top(0)


def test_no_image_left() -> None:
    empty = Classification(["a"], torch.zeros(0, 1), torch.zeros(0, 1))
    assert empty.best == []
    assert empty.table() == ""
