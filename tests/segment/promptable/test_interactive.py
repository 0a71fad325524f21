"""Sessions of clicks, and the click that comes next."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment.promptable import InteractiveSession, OracleSegmenter, click_curve, next_click, sampled_line


def test_a_session_encodes_once_and_undoes(blobs):
    oracle = OracleSegmenter(blobs)
    session = InteractiveSession(oracle, torch.rand(3, 40, 60))
    assert not session.mask.any()
    first = session.click(10.5, 10.5)
    second = session.box(29, 5, 57, 35)
    assert torch.equal(first, blobs[0])
    assert oracle.encoded == 1
    assert len(session.history) == 2
    assert torch.equal(session.undo(), first)
    assert [(c.x, c.y, c.positive) for c in session.clicks] == [(10.5, 10.5, True)]
    assert second.shape == first.shape
    session.reset()
    assert session.history == []
    with pytest.raises(UsageError, match="undo"):
        session.undo()
    with pytest.raises(UsageError, match="outside the picture"):
        session.click(61, 10)


def test_redo_gives_back_what_undo_took_and_nothing_is_computed(blobs):
    oracle = OracleSegmenter(blobs)
    asked = []
    predict = oracle.predict
    oracle.predict = lambda *a, **k: asked.append(1) or predict(*a, **k)
    session = InteractiveSession(oracle, torch.rand(3, 40, 60))
    masks = [session.click(10.5, 10.5), session.click(40.5, 20.5)]
    assert torch.equal(session.undo(), masks[0])
    assert torch.equal(session.redo(), masks[1])
    with pytest.raises(UsageError, match="redo"):
        session.redo()
    session.undo()
    assert len(asked) == 2
    session.click(8.5, 30.5)
    with pytest.raises(UsageError, match="redo"):  # another way was taken
        session.redo()


def test_a_scribble_is_clicks_along_a_line_and_one_step(blobs):
    session = InteractiveSession(OracleSegmenter(blobs), torch.rand(3, 40, 60))
    mask = session.scribble([(32.5, 10.5), (50.5, 10.5), (50.5, 30.5)], spacing=4)
    assert torch.equal(mask, blobs[2])
    places = np.array([(c.x, c.y) for c in session.clicks])
    assert len(places) == 11  # 38 pixels of line in steps of at most 4
    assert places[0].tolist() == [32.5, 10.5]
    assert places[-1].tolist() == [50.5, 30.5]
    walked = np.where(places[:, 1] == 10.5, places[:, 0] - 32.5, 18 + places[:, 1] - 10.5)
    np.testing.assert_allclose(np.diff(walked), 3.8)
    assert not session.undo().any()
    assert len(sampled_line([(0, 0), (1000, 0)], 1.0, most=16)) == 16
    assert sampled_line([(3, 4)], 1.0) == [(3, 4)]


def test_what_is_wrong_changes_nothing(blobs):
    session = InteractiveSession(OracleSegmenter(blobs), torch.rand(3, 40, 60))
    session.click(10.5, 10.5)
    wrong = [
        (lambda: session.click(10, -1), "outside the picture of 60 x 40"),
        (lambda: session.scribble([(5, 5), (5, 41)]), "outside the picture"),
        (lambda: session.scribble([]), "at least one point"),
        (lambda: session.scribble([(1, 1)], spacing=0), "spacing"),
        (lambda: session.box(70, 1, 90, 20), "no area inside"),
        (lambda: session.box(20, 20, 10, 30), "no area"),
        (lambda: session.rough(torch.zeros(40, 60, dtype=torch.bool)), "no pixel"),
        (lambda: session.rough(torch.ones(60, 40, dtype=torch.bool)), r"\(60, 40\), the picture is \(40, 60\)"),
    ]
    for call, message in wrong:
        with pytest.raises(UsageError, match=message):
            call()
    assert len(session.history) == 1


def test_a_rough_mask_says_which_object(blobs):
    session = InteractiveSession(OracleSegmenter(blobs), torch.rand(3, 40, 60))
    rough = torch.zeros(40, 60, dtype=torch.bool)
    rough[24:36, 6:16] = True
    assert torch.equal(session.rough(rough), blobs[1])


def test_clicks_of_the_real_kind_run(tiny):
    session = InteractiveSession(tiny, torch.rand(3, 48, 70))
    session.click(20.5, 20.5)
    session.click(60.5, 40.5, positive=False)
    assert session.mask.shape == (48, 70)
    assert session.logits.shape == (48, 70)


def _brute(found: np.ndarray, truth: np.ndarray) -> tuple[int, int, bool] | None:
    """The rule in words: distance of every wrong pixel to the nearest one that is not wrong, the outside included."""
    best: tuple[float, int, int, bool] | None = None
    depths = {}
    for positive, region in ((True, truth & ~found), (False, found & ~truth)):
        padded = np.pad(region, 1)
        right = np.argwhere(~padded)
        depth = np.zeros(region.shape)
        for r, c in np.argwhere(region):
            depth[r, c] = np.sqrt(((right - (r + 1, c + 1)) ** 2).sum(1)).min()
        depths[positive] = depth
    positive = depths[True].max() > depths[False].max()
    depth = depths[bool(positive)]
    if depth.max() == 0:
        return None
    for (r, c), value in np.ndenumerate(depth):
        if best is None or value > best[0]:
            best = (value, r, c, bool(positive))
    return best[1:]


@pytest.mark.parametrize("seed", range(6))
def test_next_click_follows_the_rule(seed):
    rng = np.random.default_rng(seed)
    found, truth = (np.kron(rng.random((4, 5)) > 0.5, np.ones((3, 3))).astype(bool) for _ in range(2))
    click = next_click(torch.from_numpy(found), torch.from_numpy(truth))
    row, column, positive = _brute(found, truth)
    assert (click.x, click.y, click.positive) == (column + 0.5, row + 0.5, positive)


def test_void_pixels_do_not_move_the_next_click():
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        found, truth, other = (torch.rand(12, 16, generator=generator) > 0.5 for _ in range(3))
        ignore = torch.rand(12, 16, generator=generator) > 0.6
        click = next_click(found, truth, ignore=ignore)
        assert not ignore[int(click.y), int(click.x)]
        assert next_click(torch.where(ignore, other, found), truth, ignore=ignore) == click
        # as if found were right there
        assert next_click(torch.where(ignore, truth, found), truth) == click
    assert next_click(found, truth, ignore=torch.ones(12, 16, dtype=torch.bool)) is None
    with pytest.raises(UsageError, match="of one picture"):
        next_click(found, truth, ignore=ignore[:5])


def test_next_click_where_nothing_is_wrong(blobs):
    assert next_click(blobs[0], blobs[0]) is None
    clicked = torch.zeros(40, 60, dtype=torch.bool)
    first = next_click(blobs[1] & False, blobs[1])
    clicked[int(first.y), int(first.x)] = True
    second = next_click(blobs[1] & False, blobs[1], clicked=clicked)
    assert (second.x, second.y) != (first.x, first.y)


def test_the_curve_of_an_oracle_is_one(blobs):
    oracle = OracleSegmenter(blobs)
    curve = click_curve(oracle, torch.rand(3, 40, 60), blobs[2], clicks=3)
    assert curve.tolist() == [1, 1, 1]
    assert oracle.encoded == 1
    with pytest.raises(UsageError, match="object with pixels"):
        click_curve(oracle, torch.rand(3, 40, 60), blobs[2] & False)
    with pytest.raises(UsageError, match=r"mask is \(30, 60\), the picture is \(40, 60\)"):
        click_curve(oracle, torch.rand(3, 40, 60), blobs[2, :30])
    with pytest.raises(UsageError, match="they are of one picture"):
        next_click(blobs[0, :30], blobs[0])
    with pytest.raises(UsageError, match="they are of one picture"):
        next_click(blobs[0], blobs[1], clicked=blobs[0, :30])


@pytest.mark.parametrize("feedback", [True, False])
def test_the_mask_before_is_asked_with_only_by_wish_and_one_click_alone_may_mean_several(blobs, feedback):
    oracle, asked = OracleSegmenter(blobs), []
    predict = oracle.predict
    oracle.predict = lambda state, prompts, *, multimask: (
        asked.append((prompts.masks is not None, multimask)) or predict(state, prompts, multimask=multimask)
    )
    session = InteractiveSession(oracle, torch.rand(3, 40, 60), feedback=feedback)
    session.click(10.5, 10.5)
    session.click(12.5, 10.5)
    session.box(2, 1, 24, 19)
    assert asked == [(False, True), (feedback, False), (feedback, False)]
