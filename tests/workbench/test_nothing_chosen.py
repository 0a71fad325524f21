"""What every tab says where no picture was chosen: what it takes, several pictures or one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import UsageError

gr = pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.workbench.jobs import JobQueue  # noqa: E402
from binderclip.workbench.models import ModelShelf  # noqa: E402
from binderclip.workbench.sessions import Sessions  # noqa: E402
from binderclip.workbench.tab import Bench  # noqa: E402
from binderclip.workbench.tabs import TABS  # noqa: E402
from binderclip.workbench.trained.trained_files import TrainedFiles  # noqa: E402

Connected = tuple[Callable[..., Any], list[Any]]


class RecordingBench(Bench):
    """A bench that keeps what tabs connect."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.connected: list[Connected] = []

    def connect(self, controls: Any, work: Callable[..., Any], inputs: Any, *rest: Any, **options: Any) -> None:
        self.connected.append((work, list(inputs)))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingBench:
    """With a folder, so that pictures of it can be chosen; whatever a tab has to train first is there."""
    monkeypatch.setattr(TrainedFiles, "chosen", lambda *_: tmp_path)
    with gr.Blocks():
        return RecordingBench(
            model=gr.Dropdown(["small"], value="small"), jobs=JobQueue(), clicks=JobQueue(),
            sessions=Sessions(tmp_path / "sessions"), models=ModelShelf(), folders=[tmp_path],
        )  # fmt: skip


def runs_on_pictures(bench: RecordingBench, tab: Any) -> list[tuple[Connected, Any]]:
    """What a tab connects that needs pictures, and where these are chosen."""
    bench.connected.clear()
    bench.picture_inputs.clear()
    with gr.Blocks():
        bench.shared = gr.State(None)
        tab.build(bench)
    needed = [each for each in bench.picture_inputs if each.fold is not None]  # the others are there to be left empty
    return [
        (connected, each) for connected in bench.connected for each in needed
        if any(one is each.files for one in connected[1])
    ]  # fmt: skip


@pytest.mark.parametrize("tab", TABS, ids=lambda tab: tab.title)
def test_a_tab_without_a_picture_says_what_it_takes(bench: RecordingBench, run_of: Any, tab: Any) -> None:
    for (work, inputs), pictures in runs_on_pictures(bench, tab):
        values = [None if one in (pictures.files, pictures.folder) else one.value for one in inputs]
        with pytest.raises(UsageError) as refused:
            work(run_of(folders=bench.folders), *values)
        one = "choose a picture first; this tab takes one"
        assert str(refused.value) == ("choose pictures first, or a folder" if pictures.many else one)


def test_tabs_of_both_kinds_were_asked(bench: RecordingBench) -> None:
    kinds = [pictures.many for tab in TABS for _, pictures in runs_on_pictures(bench, tab)]
    assert kinds.count(True) >= 12
    assert kinds.count(False) >= 5
