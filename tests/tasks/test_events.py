"""What tasks say while they work."""

from __future__ import annotations

import threading

import pytest

from binderclip.tasks.events import (
    Counted,
    Event,
    LeftOut,
    Started,
    Stopped,
    StopToken,
    Warned,
    batches,
    counted,
    emit,
    line,
    listening,
    skip,
    start,
    warn,
)


def test_without_a_listener_nothing_happens(capsys) -> None:
    start("loading")
    warn("careful")
    assert capsys.readouterr() == ("", "")


def test_events_reach_the_listener_in_order() -> None:
    events: list[Event] = []
    with listening(events.append):
        start("loading")
        skip([("a.png", "broken")])
        warn("careful")
        batches("picture")(32, 64)
    emit(Started("after"))
    assert events == [Started("loading"), LeftOut("a.png", "broken"), Warned("careful"), Counted(32, 64, "picture")]


def _fail(inner: list[Event]) -> float:
    with listening(inner.append):
        start("inside")
        return 1 / 0


def test_an_inner_listener_hears_alone_and_the_outer_one_goes_on() -> None:
    outer: list[Event] = []
    inner: list[Event] = []
    with listening(outer.append):
        with pytest.raises(ZeroDivisionError):
            _fail(inner)
        start("outside")
    assert (inner, outer) == ([Started("inside")], [Started("outside")])


def test_items_are_counted_when_they_are_taken() -> None:
    events: list[Event] = []
    with listening(events.append):
        items = counted(iter("ab"), "picture", 2)
        assert events == []
        assert next(items) == "a"
        assert events == [Counted(1, 2, "picture", begun=True)]
        assert list(items) == ["b"]


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("step 3 of 200", Counted(3, 200, "step")),
        ("encoding pictures: 12 of 40", Counted(12, 40, "encoding pictures")),
        ("method 2 of 3, gda", Started("method 2 of 3, gda")),
        ("reading", Started("reading")),
    ],
)
def test_lines_of_trainers_become_steps_where_they_count(text, event) -> None:
    events: list[Event] = []
    with listening(events.append):
        line(text)
    assert events == [event]


def test_a_token_stops_a_task_at_its_next_event_and_no_other() -> None:
    token, events = StopToken(), list[Event]()

    def task() -> None:
        for _ in counted(range(10**9), "picture", 10**9):
            token.stop()

    with pytest.raises(Stopped), listening(events.append, token):
        task()
    assert events == [Counted(1, 10**9, "picture", begun=True)]
    # What is outside of the block, or in another thread, has no token.
    with listening(events.append):
        start("next")
    other = threading.Thread(target=start, args=("beside",))
    other.start()
    other.join()
    assert events[-1] == Started("next")
