"""What the cards of the stand-ins are measured with: limiting cases, and runs that are none."""

from __future__ import annotations

import json

import pytest
import torch

from binderclip.errors import CheckpointError
from binderclip.evaluate.cards import standins
from binderclip.evaluate.cards.standins import affinity_figures, held_out_scenes, prompt_figures, ship
from binderclip.models.files.folders import write_folder
from binderclip.segment.promptable import ImageState, Masks, Prompts


class Blank:
    """A segmenter that marks the whole picture, whatever it is asked."""

    image_size = 8
    differentiable = False

    def encode(self, image):
        return ImageState(None, (image.shape[-2], image.shape[-1]), (1.0, 1.0))

    def predict(self, state, prompts: Prompts, *, multimask=True):
        count = len(prompts)
        return Masks(torch.ones(count, 1, *state.size), torch.ones(count, 1), torch.ones(count, 1, 8, 8))


def test_scenes_are_of_the_test_split_and_depend_on_the_seed_alone():
    made = held_out_scenes(3, 2, "painted backgrounds")
    known = set(standins.vocabulary("captions", split="test").names)
    assert {name for names in made.names for name in names} <= known
    assert torch.equal(made.images, held_out_scenes(3, 3, "painted backgrounds").images[:2])
    assert not torch.equal(made.images, held_out_scenes(4, 2, "painted backgrounds").images)


def test_noise_is_at_chance_and_more_than_one_name_shares_the_scenes():
    generator = torch.Generator().manual_seed(0)

    def noise(images):
        return torch.randn(len(images), 64, 16, 16, generator=generator)

    figures = affinity_figures({"noise": noise, "again": noise}, count=4)
    assert set(figures) == {"painted backgrounds", "photographs behind"}
    for row in figures.values():
        assert row["noise"] == pytest.approx(row["chance"], abs=4)
        assert row["again"] == pytest.approx(row["noise"], abs=4)


def test_a_mask_of_everything_scores_the_share_of_each_object():
    figures = prompt_figures(Blank(), count=3)["painted backgrounds"]
    shares = []
    for seed in standins.SEEDS:
        visible = held_out_scenes(seed, 3, "painted backgrounds").visible.float().mean((2, 3)).flatten()
        shares.append(float(visible[visible >= 0.002].mean()))
    assert figures["clicks_1"] == pytest.approx(100 * sum(shares) / 3, abs=0.06)
    assert figures["clicks_5"] == figures["clicks_1"] == figures["box"]
    assert figures["box_filled"] > figures["box"]


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"summary\.json"):
        ship(tmp_path, tmp_path / "out")
    write_folder(tmp_path / "model", kind="vision", config={}, state={"a": torch.randn(3)}, card={})
    (tmp_path / "summary.json").write_text(json.dumps({"recipe": "r", "revision": "abc", "stages": []}))
    with pytest.raises(CheckpointError, match="nothing to borrow"):
        ship(tmp_path, tmp_path / "out")
