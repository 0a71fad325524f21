"""`binderclip interpolate` between a model and one that was moved: curve, layers, saved model, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.landscape import interpolate_weights
from binderclip.models import load

Command = Callable[..., Any]
OPTIONS = ("--data", "digits", "--split", "all", "--limit", 24, "--points", 3)


@pytest.fixture(scope="module")
def moved(tiny_clip: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights in one block and in the image projection."""
    model = load(str(tiny_clip(2)))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "visual.transformer.resblocks.1" in name or name.endswith("visual.proj"):
                weight.add_(0.5 * torch.randn(weight.shape, generator=g))
    return model.save(tmp_path_factory.mktemp("models") / "moved")


def test_the_best_model_is_saved_and_only_layers_that_differ_are_listed(
    command: Command, tiny_clip: Callable[[int], Path], moved: Path, tmp_path: Path
) -> None:
    page, saved = tmp_path / "page.html", tmp_path / "best"
    found = command(
        "interpolate", tiny_clip(2), moved, *OPTIONS, "--out", page, "--save", saved, "--json"
    ).json()  # fmt: skip
    assert found["alphas"] == [0, 0.5, 1]
    chosen = found["accuracy"]["to choose by"]
    assert chosen[found["alphas"].index(found["best"])] == max(chosen)
    assert {row["layer"].removeprefix("backbone.") for row in found["layers"]} == {
        "visual.transformer.resblocks.1", "visual.proj",
    }  # fmt: skip
    first, second, best = (load(str(place)) for place in (tiny_clip(2), moved, saved))
    expected = interpolate_weights(first, second, found["best"]).state_dict()
    for name, tensor in best.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    written = page.read_text(encoding="utf-8")
    assert written.count("data:image/png") == 2
    assert '"http' not in written, "the page must be readable without a network"


def test_a_person_is_told_the_weight_and_the_layers(
    command: Command, tiny_clip: Callable[[int], Path], moved: Path
) -> None:
    done = command("interpolate", tiny_clip(2), moved, *OPTIONS, "--no-report")
    assert done.code == 0, done.err
    words = " ".join(done.out.split())
    assert "Best weight" in words
    assert "breaks the way" in words or "break the way" in words
    short = command("interpolate", tiny_clip(2), moved, *OPTIONS, "--no-report", "--no-layers")
    assert "straggler" not in short.out


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], moved: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for words, arguments in {
        "same weights": (tiny_clip(2), tiny_clip(2)),
        "differ in architecture": (tiny_clip(1), moved),
        "not empty": (tiny_clip(2), moved, "--save", full),
        "nowhere": (tiny_clip(2), moved, "--data", tmp_path / "nowhere"),
        "--points": (tiny_clip(2), moved, "--points", 1),
    }.items():
        done = command("interpolate", *OPTIONS, "--no-report", *arguments)
        assert done.code in (1, 2), words
        assert words in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
    assert (full / "mine.txt").read_text() == "mine"
