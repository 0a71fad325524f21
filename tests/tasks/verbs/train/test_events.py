"""A training says its cost, its steps and what it measures as events, and a token ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binderclip.tasks import train
from binderclip.tasks.events import Counted, Event, Reported, Started, Stopped, StopToken, Warned

RECIPE = """
data = [{name = "noto-emoji", split = "val", limit = 24}]
samples = 48
batch_size = 16
checkpoint_every = 1
[model]
arch = "open_clip"
embed_dim = 32
tokenizer = "captions"
vocabulary = 300
context = 8
vision = {image_size = 32, patch_size = 16, layers = 1, width = 32, head_width = 16}
text = {width = 32, heads = 2, layers = 1}
[evaluation]
every = 2
data = [{name = "noto-emoji", split = "val", limit = 8}]
"""


def test_steps_are_counted_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    asked: dict[str, Any] = {"recipe": str(tmp_path / "tiny.toml"), "out": str(tmp_path / "run")}
    events: list[Event] = []
    token = StopToken()

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, Counted) and event.done == 2:
            token.stop()

    with pytest.raises(Stopped):
        train.run(train.request(**asked), progress=listener, stop=token)
    cost = next(event for event in events if isinstance(event, Reported))
    assert "FLOPs" in cost.message
    counts = [event for event in events if isinstance(event, Counted)]
    assert [(event.done, event.total) for event in counts] == [(1, 3), (2, 3)]
    assert all(event.message.endswith(": step") for event in counts)
    events.clear()
    result: Any = train.run(train.request(**asked, resume=True), progress=events.append)
    assert any(isinstance(event, Started) and "going on from step" in event.message for event in events)
    assert [event.done for event in events if isinstance(event, Counted)][-1] == 3
    assert not [event for event in events if isinstance(event, Warned)]
    assert result.table()[1][0][1] == 3
    assert result.as_dict()["request"]["resume"] is True
