"""Every Python block of the guide 'Choose your clipping' runs, and the clip in it acts."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from binderclip.documents import parse_toml
from binderclip.fit.loop import make_clip
from binderclip.optim import METHODS, optimizers

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "guides" / "choose-your-clipping.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


class Model(nn.Module):
    """Takes what Lightning, the Trainer and a plain loop give it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return {"loss": 50 * self.net(x).square().mean()}


@pytest.fixture
def surroundings(tmp_path):
    """What the guide's blocks take as given."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()

        def training_step(self, batch, index):
            return self.model(batch)["loss"]

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    model, data = Model(), torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    settings = {
        "accelerator": "cpu", "max_steps": 4, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    AcceleratorState._reset_state(True)
    yield {
        "torch": torch,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": data.split(8),
        "loss_of": lambda model, batch: model(batch)["loss"],
        "folder": str(tmp_path / "out"),
        "rows": [{"x": row} for row in data],
        "module": Module(),
        "loader": torch.utils.data.DataLoader(data, batch_size=8),
        "settings": settings,
    }
    AcceleratorState._reset_state(True)
    torch.compiler.reset()


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, as FSDP needs it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_the_block_runs_and_the_clip_acts(block, surroundings, request, monkeypatch):
    if "fully_shard" in block:
        request.getfixturevalue("one_process")
    acted = []
    from binderclip.optim import Clip

    original = Clip.run
    monkeypatch.setattr(Clip, "run", lambda *arguments: (acted.append(1), original(*arguments))[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "guide", "exec"), surroundings)
        if not acted:
            # a block that only attaches: train with what it made
            surroundings["loss_of"](surroundings["model"], surroundings["batches"][0]).backward()
            surroundings["optimizer"].step()
    assert acted
    if "ClipLog" in block:
        assert {path.name for path in Path(surroundings["folder"]).iterdir()} == {"clip.jsonl", "clip.png"}


def test_the_recipes_table_is_a_clip():
    (block,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    clip = make_clip(parse_toml(block)["clip"])
    assert type(clip).__name__ == "ZClip"
    assert clip.nonfinite == "skip"


def test_every_method_and_optimizer_is_named():
    named = {type(METHODS[name]()).__name__ for name in METHODS}
    named |= {"StableSPAM", "MedianMomentum", "ClippedAdaGrad", "ClippedAdam"} & set(optimizers.__all__)
    assert all(f"`{name}`" in GUIDE for name in named)
