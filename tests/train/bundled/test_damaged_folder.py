"""Ten faults for measuring: each is seen, the second severity is worse, and places are counted from the worst."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.train.bundled.data.damaged_folder import TEN_FAULTS, places_from_last, ten_damaged


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    found = [sample.image.convert("RGB") for sample in load_data("photographs")]
    for picture in found:
        picture.thumbnail((256, 256), Image.Resampling.LANCZOS)
    return found


@pytest.mark.parametrize("fault", TEN_FAULTS)
def test_a_person_sees_every_fault_and_the_second_severity_is_worse(fault: str, photographs: list[Image.Image]) -> None:
    for photograph in photographs[:3]:
        whole = np.asarray(photograph, dtype=float)
        noise = []
        for severity in (0, 1):
            damaged = TEN_FAULTS[fault](photograph, severity, np.random.default_rng(0))
            assert damaged.size == photograph.size
            assert damaged.mode == "RGB"
            noise.append(float(((np.asarray(damaged, dtype=float) - whole) ** 2).mean()))
        assert 20 < noise[0] < noise[1]  # below 35 dB


def test_ten_photographs_have_a_fault_each_by_the_seed(photographs: list[Image.Image]) -> None:
    found = ten_damaged(photographs, 3)
    assert [one.fault for one in found] == list(TEN_FAULTS)
    assert len({one.row for one in found}) == 10
    again = ten_damaged(photographs, 3)
    assert [(one.row, one.severity) for one in again] == [(one.row, one.severity) for one in found]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(found, again, strict=True))
    assert [one.row for one in ten_damaged(photographs, 4)] != [one.row for one in found]
    with pytest.raises(UsageError, match="10 photographs at least are needed, these are 9"):
        ten_damaged(photographs[:9], 3)


def test_places_are_counted_from_the_worst() -> None:
    assert places_from_last([0.5, 0.1, 0.9, 0.1, 0.3], [1, 3, 4, 0, 2]) == [1, 2, 3, 4, 5]
