"""`train --as open_clip`: open_clip's own parser takes every command, and no entry is lost without a word."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from open_clip.transform import AugmentationCfg

from binderclip.train import Recipe, Stage, list_recipes, load_recipe, open_clip_commands

params = pytest.importorskip("open_clip_train.params")

FLAT: dict[str, Any] = {"data": ["a-{000..009}.tar"], "samples": 6400, "batch_size": 64, "model": "open_clip:ViT-B-32"}


def parsed(**entries: Any) -> Any:
    """What open_clip makes of the command of a flat recipe."""
    (command,) = open_clip_commands(Recipe.from_dict({**FLAT, **entries}))
    return params.parse_args(command.arguments)


def unsaid(**entries: Any) -> dict[str, str]:
    (command,) = open_clip_commands(Recipe.from_dict({**FLAT, **entries}))
    return command.unsaid


@pytest.mark.parametrize("name", list_recipes())
def test_open_clip_parses_the_command_of_every_packaged_recipe(name: str) -> None:
    recipe = load_recipe(name)
    commands = open_clip_commands(recipe)
    assert [command.stage for command in commands] == [stage.name for stage in recipe.stage]
    for command, stage in zip(commands, recipe.stage, strict=True):
        found = params.parse_args(command.arguments)
        assert (found.lr, found.wd, found.seed) == (stage.lr, stage.weight_decay, recipe.seed)
        assert found.batch_size * found.accum_freq <= stage.batch_size
        AugmentationCfg(**found.aug_cfg)
        *comments, line = str(command).splitlines()
        assert all(comment.startswith("# ") for comment in comments)
        assert shlex.split(line)[:3] == ["python", "-m", "open_clip_train.main"]
        assert shlex.split(line)[3:] == command.arguments


def test_what_both_know_has_the_same_value() -> None:
    found = parsed(
        model="open_clip:ViT-B-16/openai", lr=3e-4, weight_decay=0.2, warmup=0.1, seed=7,
        clip={"name": "norm", "max_norm": 2.0},
        optimizer={"name": "adamw", "betas": [0.9, 0.98], "eps": 1e-6}, precision="bfloat16", micro_batch=16,
        image_size=160, text_length=32, patch_dropout=0.5, grad_checkpointing=True, workers=3, loss="siglip",
        groups=[{"match": "visual.*", "freeze": True}], evaluation={"data": ["held.tar"]}, name="my run",
    )  # fmt: skip
    assert (found.model, found.pretrained, found.name) == ("ViT-B-16", "openai", "my_run")
    assert (found.train_data, found.val_data, found.dataset_type) == ("a-{000..009}.tar", "held.tar", "webdataset")
    assert (found.epochs, found.train_num_samples, found.warmup, found.lr_scheduler) == (1, 6400, 10, "cosine")
    assert (found.batch_size, found.accum_freq) == (16, 4)
    assert (found.lr, found.wd, found.beta1, found.beta2, found.eps) == (3e-4, 0.2, 0.9, 0.98, 1e-6)
    assert (found.grad_clip_norm, found.precision, found.seed, found.workers) == (2.0, "amp_bf16", 7, 3)
    assert (found.force_image_size, found.force_context_length, found.force_patch_dropout) == ([160], 32, 0.5)
    assert (found.grad_checkpointing, found.siglip, found.lock_image) == (True, True, True)


def test_the_usual_adamw_is_torchs_and_not_the_one_of_open_clip() -> None:
    found = parsed()
    assert (found.beta1, found.beta2, found.eps) == (0.9, 0.999, 1e-8)


def test_augmentation_is_open_clips_where_it_has_one() -> None:
    augment = {"scale": [0.4, 1.0], "brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1, "grey": 0.2}
    assert parsed(augment=augment).aug_cfg == {
        "scale": (0.4, 1.0), "color_jitter": (0.4, 0.3, 0.2, 0.1), "color_jitter_prob": 1.0, "gray_scale_prob": 0.2,
    }  # fmt: skip
    assert parsed(augment=False).aug_cfg == {"scale": (1.0, 1.0)}
    assert "augment.flip" in unsaid()
    still = {"flip": 0.0, "rotate": 0.0, "white": 1.0, "paint": 0.0}
    assert not [entry for entry in unsaid(augment=still) if entry.startswith("augment")]
    assert {"augment.cutout", "augment.ratio"} <= set(unsaid(augment={**still, "cutout": 0.5, "ratio": [1, 1]}))


def test_lengths_and_schedules() -> None:
    assert parsed(samples=None, epochs=3).epochs == 3
    assert "--train-num-samples" in unsaid(samples=None, epochs=3)["epochs"]
    assert "not 2.5" in unsaid(samples=None, epochs=2.5)["epochs"]
    assert parsed(warmup=640).warmup == 10
    assert "0.05 of the steps" in unsaid(samples=None, epochs=3)["warmup"]
    linear = parsed(schedule="linear", floor=0.5, lr=0.1)
    assert (linear.lr_scheduler, linear.epochs_cooldown, linear.lr_cooldown_end) == ("const-cooldown", 1, 0.05)
    assert parsed(schedule="constant").lr_scheduler == "const"


def test_sources_that_are_no_shards_are_named_like_theirs() -> None:
    sources = [{"name": "openclipart", "weight": 2.0, "limit": 5}, "b.tar"]
    found = parsed(data=sources)
    assert found.train_data == "openclipart-train.tar::b.tar"
    assert (found.train_data_upsampling_factors, found.dataset_resampled) == ("2::1", True)
    assert {"data.0.name", "data.0.limit"} <= set(unsaid(data=sources))


def test_stages_follow_each_other() -> None:
    stages = [{"name": "first", "epochs": 2}, {"name": "second", "samples": 640}]
    wide = {key: value for key, value in FLAT.items() if key != "samples"}
    first, second = open_clip_commands(Recipe.from_dict({**wide, "name": "two", "stage": stages}))
    assert params.parse_args(first.arguments).pretrained == ""
    assert params.parse_args(second.arguments).pretrained == "logs/two-first/checkpoints/epoch_2.pt"
    first, second = open_clip_commands(Recipe.from_dict({**wide, "model": "small", "stage": stages}))
    assert "logs/" in second.unsaid["stage"]


OTHER: dict[str, Any] = {
    "name": "x", "kind": "classification", "data": ["b.tar"], "augment": False, "image_size": 96, "text_length": 20,
    "batch_size": 32, "samples": 640, "epochs": 2, "lr": 0.5, "weight_decay": 0.5, "schedule": "linear", "warmup": 0.5,
    "floor": 0.5, "optimizer": "sgd", "clip": "zclip", "loss": "siglip", "terms": [{"name": "router"}],
    "teacher": "start", "ema": 0.9, "accumulate": 2, "micro_batch": 16, "precision": "float16", "image_tokens": "grid",
    "grad_transform": "tract",
    "patch_dropout": 0.5, "text_tokens": "random", "positions": "sincos", "layer_decay": 0.5, "channels_last": True,
    "groups": [{"match": "text.*", "lr": 0.5}], "grad_checkpointing": True, "checkpoint_every": 7,
}  # fmt: skip


@pytest.mark.parametrize("entry", Stage.model_fields)
def test_no_entry_of_a_stage_is_lost_without_a_word(entry: str) -> None:
    changed = {**FLAT, "stage": [{entry: OTHER[entry]}]}
    if entry == "epochs":
        changed.pop("samples")
    (usual,), (other,) = (open_clip_commands(Recipe.from_dict(each)) for each in (FLAT, changed))
    assert str(usual) != str(other)


@pytest.mark.parametrize(
    "change",
    [{"seed": 3}, {"workers": 5}, {"model": "small"}, {"save_dtype": "float16"}, {"name": "x"},
     {"evaluation": {"data": ["b.tar", "c.tar"]}}, {"evaluation": {"every": 5}},
     {"evaluation": {"templates": "imagenet"}}],
)  # fmt: skip
def test_no_entry_of_a_recipe_is_lost_without_a_word(change: dict[str, Any]) -> None:
    (usual,), (other,) = (open_clip_commands(Recipe.from_dict(each)) for each in (FLAT, {**FLAT, **change}))
    assert str(usual) != str(other)


def test_the_verb_prints_it_and_trains_nothing(command: Callable[..., Any], tmp_path: Any) -> None:
    told = command("train", "scratch-64", "--as", "open_clip", "--set", "stage.lr=0.25")
    assert told.code == 0, told.err
    assert "--lr 0.25" in told.out
    assert "# augment.flip: nothing is mirrored" in told.out
    assert list(tmp_path.iterdir()) == []
    (stage,) = command("train", "scratch-64", "--as", "open_clip", "--json").json()["commands"]
    assert stage["arguments"][0] == "--name"
    wrong = command("train", "scratch-64", "--as", "lavis")
    assert wrong.code != 0
    assert "--as lavis: the only program that is known is open_clip" in wrong.err
