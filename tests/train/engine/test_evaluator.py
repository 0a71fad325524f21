"""Held-out figures do not depend on how the pictures are stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.data import ImageTextDataset, load_data, write_shards
from binderclip.errors import DataError, UsageError
from binderclip.models import load
from binderclip.train.engine.evaluator import Evaluator, set_names, short_names, split_figure
from binderclip.train.engine.plots import plot_run
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.recipe import DataSpec, EvaluationSpec


def test_shards_are_measured_like_the_table_they_were_made_from(tmp_path: Path) -> None:
    model, part = load("small"), load_data("noto-emoji", "val").subset(range(48))
    write_shards(part, tmp_path / "s-%02d.tar", per_shard=20)
    url = str(tmp_path / "s-{00..02}.tar")

    def measured(*data: dict[str, Any]) -> dict[str, float]:
        found = Evaluator(EvaluationSpec.model_validate({"data": list(data)}), model)(model)
        return {key.rsplit(data[0]["name"], 1)[-1]: value for key, value in found.items()}

    table = measured({"name": "noto-emoji", "limit": 48})
    shards = measured({"name": url})
    assert table["/count"] == shards["/count"] == 48
    recalls = [key for key in shards if "/R@" in key]
    assert len(recalls) == 6
    for key in recalls:
        assert shards[key] == pytest.approx(table[key], abs=0.03), key
    fewer = Evaluator(EvaluationSpec.model_validate({"data": [{"name": url, "limit": 7}]}), model)
    assert len(fewer.held[0].pixels) == 7


def test_a_stream_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="no picture can be read"):
        Evaluator(EvaluationSpec.model_validate({"data": [str(tmp_path / "x.tar")]}), load("small"))


def test_captions_stay_with_their_pictures_where_one_between_cannot_be_read(tmp_path: Path) -> None:
    part, good = load_data("noto-emoji", "val").subset(range(5)), [0, 1, 3, 4]
    for folder, rows in (("whole", good), ("broken", range(5))):
        (tmp_path / folder).mkdir()
        for row in rows:
            part[row].image.save(tmp_path / folder / f"{row}.png")
            (tmp_path / folder / f"{row}.txt").write_text(part.captions[row])
    (tmp_path / "broken" / "2.png").write_bytes(b"no picture")
    settings = EvaluationSpec.model_validate({"data": [str(tmp_path / "whole"), str(tmp_path / "broken")]})
    evaluator = Evaluator(settings, load("small"))
    whole, broken = evaluator.held
    assert torch.equal(broken.pixels, whole.pixels)
    assert list(broken.described.captions) == list(whole.described.captions) == [part.captions[row] for row in good]
    (skipped,) = evaluator.skipped
    assert "2.png" in skipped[0]


def test_training_and_evaluation_take_their_split_of_a_folder(tmp_path: Path) -> None:
    part = load_data("noto-emoji", "val").subset(range(3))
    for name, sample in zip(("train/a", "train/b", "val/c"), part, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sample.image.save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(sample.caption)
    (tmp_path / "train/up").symlink_to("..", target_is_directory=True)

    def opened(**entries: object) -> ImageTextDataset:
        (dataset,), _ = open_sources([DataSpec.model_validate({"name": str(tmp_path), **entries})])
        return dataset

    assert opened().keys == ["train/a.png", "train/b.png"]
    assert [key for key, _ in opened().skipped] == ["train/up"]
    assert opened(split="val").keys == ["val/c.png"]
    settings = EvaluationSpec.model_validate({"data": [str(tmp_path)]})
    assert open_sources(settings.data)[0][0].keys == ["val/c.png"]
    with pytest.raises(UsageError, match="no split 'test', only train, val"):
        opened(split="test")
    # Without the split it is taken whole, as it always was.
    shutil.rmtree(tmp_path / "val")
    assert opened(split="val").keys == ["train/a.png", "train/b.png"]


@pytest.mark.parametrize("measure", ["image_to_text/R@10", "text_to_image/median_rank", "zero_shot/accuracy", "count"])
@pytest.mark.parametrize("data", ["openclipart", "/tmp/a/val", "../here", "x/text_to_image", "/"])
def test_figures_come_apart_whatever_their_set_is_called(data: str, measure: str) -> None:
    assert split_figure(f"{data}/{measure}") == (data, measure)


def test_people_read_the_last_part_of_a_path_unless_two_share_it() -> None:
    assert short_names(["/tmp/a/val", "icons", "b/val", "/data/cats"]) == {
        "/tmp/a/val": "/tmp/a/val", "icons": "icons", "b/val": "b/val", "/data/cats": "cats"
    }  # fmt: skip


def test_sets_of_one_name_are_told_apart() -> None:
    def named(*specs: tuple[str, str | None]) -> list[str]:
        return set_names([DataSpec(name=name, split=split) for name, split in specs])

    assert named(("a", "val"), ("b", "val")) == ["a", "b"]
    assert named(("a", "val"), ("a", "test"), ("b", "val")) == ["a:val", "a:test", "b"]
    assert named(("a", "val"), ("a", "val")) == ["a:val", "a:val#2"]
    model = load("small")
    data = [{"name": "noto-emoji", "limit": 9}, {"name": "noto-emoji", "split": "test", "limit": 7}]
    found = Evaluator(EvaluationSpec.model_validate({"data": data}), model)(model)
    assert (found["noto-emoji:val/count"], found["noto-emoji:test/count"]) == (9, 7)


def test_the_legend_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    said: list[str] = []
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, path, **settings: said.extend(t.get_text() for t in self.axes[0].get_legend().get_texts()),
    )
    row = {f"{data}/text_to_image/R@10": 0.5 for data in ("/tmp/pets/val", "icons")}
    plot_run({}, [{"step": 4, **row}], tmp_path)
    assert said == ["val, text to image", "icons, text to image"]
