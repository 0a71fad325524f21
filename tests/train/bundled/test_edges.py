"""How `small-edges` is made and measured: exact edges of scenes, a step of training, figures of known maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.train.bundled import edges
from binderclip.train.bundled.data.edge_scenes import EdgeScenes, degraded, edge_scenes, named_photographs, scene_edges


@pytest.fixture(scope="module")
def made() -> EdgeScenes:
    return edge_scenes(3, 4, 64, split="test", grounds=["plain"])


def test_outlines_are_where_objects_meet_and_shading_is_no_line() -> None:
    from binderclip.data import scenes

    drawn = scenes(5, 3, 48, objects=(2, 3), occlusion=0.4)
    found = scene_edges(drawn)
    owner = drawn.instances.numpy()
    for row, labels in enumerate(owner):
        for y in range(48):
            for x in range(48):
                beside = [labels[y, x + 1]] if x < 47 else []
                below = [labels[y + 1, x]] if y < 47 else []
                if any(other != labels[y, x] for other in beside + below):
                    assert found.edges[row, y, x]
    assert not bool(found.edges[torch.from_numpy(owner < 0)].float().mean() > 0.1)
    assert bool(found.counted[found.edges].all())
    # One drawing whose left half is dark, whose right half is shaded by a fortieth of the range a pixel or less.
    ramp = torch.linspace(0.6, 0.9, 24).expand(48, 24)
    drawn.images[0] = torch.cat([torch.full((48, 24), 0.1), ramp], 1)
    drawn.visible[0] = False
    drawn.visible[0, 0] = True
    only = scene_edges(drawn.select(0)).edges[0]
    assert only[4:-4, 22:25].any(1).all()
    assert not only[:, 28:].any()
    assert not only[:, :20].any()


def test_degrading_leaves_edges_and_changes_most_pictures(made: EdgeScenes) -> None:
    changed = degraded(made, 1, whole=0.0)
    assert torch.equal(changed.edges, made.edges)
    assert all(not torch.equal(a, b) for a, b in zip(changed.images, made.images, strict=True))
    assert torch.equal(degraded(made, 1, whole=0.0).images, changed.images)
    assert torch.equal(degraded(made, 1, whole=1.0).images, made.images)


def test_photographs_behind_are_not_counted_where_they_have_edges_of_their_own() -> None:
    grounds = [named_photographs(["coffee.png"])]
    texture, photograph = (
        edge_scenes(2, 2, 64, split="test", grounds=grounds, photograph=kind) for kind in (False, True)
    )
    assert torch.equal(texture.edges, photograph.edges)
    assert photograph.counted.float().mean() < texture.counted.float().mean() - 0.02
    with pytest.raises(UsageError, match=r"no photograph 'tea\.png'"):
        named_photographs(["tea.png"])


def test_every_side_map_is_alive_before_the_first_step_and_a_flat_picture_has_few_edges() -> None:
    network = edges.new_network()
    alive = []
    for k in range(1, 7):
        getattr(network, f"up_block_{k}").features[-2].register_forward_hook(
            lambda module, given, output: alive.append(float((output > 0).float().mean()))
        )
    logits = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert len(alive) == 6
    assert min(alive) > 0.3
    torch.testing.assert_close(logits[:, -1], logits[:, :6].mean(1), atol=0.2, rtol=0)


def test_a_folder_is_trained_measured_and_written(
    made: EdgeScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edges, "STEPS", 2)
    monkeypatch.setattr(edges, "BATCH", 2)
    monkeypatch.setattr(edges, "CROP", 32)
    monkeypatch.setattr(edges, "peers", dict)
    monkeypatch.setattr(edges, "training_scenes", lambda: made)
    monkeypatch.setattr(edges, "unseen_edge_scenes", lambda *given, **named: made)
    folder = edges.train_edges(tmp_path / "mine")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "mine"
    assert set(card["figures"]) == {"mine"}
    assert (folder / "model.safetensors").stat().st_size < 1.5e6


def test_figures_are_those_of_the_best_blur(made: EdgeScenes) -> None:
    def shifted(by: int) -> Any:
        def detector(images: Tensor) -> list[Tensor]:
            return [one.float().roll(by, 0) for one in made.edges]

        return detector

    figures = edges.edge_figures({"mine": shifted(0), "other, blur 1": shifted(9), "other, blur 2": shifted(4)}, made)
    assert figures["mine"] == {"ODS": 1.0, "OIS": 1.0, "AP": pytest.approx(1.0, abs=0.02)}
    assert set(figures) == {"mine", "other, blur 2"}
    assert figures["other, blur 2"]["ODS"] < 0.7


def test_measuring_needs_no_picture_that_was_learned_from() -> None:
    assert not set(edges.HELD_TEXTURES) & {*edges.TEXTURES, *edges.PHOTOGRAPHS}
    first, other = edges.unseen_edge_scenes(1, 4, 48), edges.unseen_edge_scenes(2, 4, 48, split="val")
    assert len(first) == len(other) == 4
    assert not np.array_equal(first.images.numpy(), other.images.numpy())
