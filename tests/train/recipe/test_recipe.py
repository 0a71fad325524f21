"""Recipes: what is accepted, what is refused and how well the refusal is worded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import NotSupported, UsageError
from binderclip.settings import locate, write_toml
from binderclip.train import STAGES, Recipe, demands, list_recipes, load_recipe
from binderclip.train.recipe.check import check_processes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLAT = """\
# a flat file is one stage
name = "flat"
data = "openclipart"
epochs = 2
lr = 0.001
batch_size = 32

[evaluation]
data = ["noto-emoji"]
"""

STAGED = """\
seed = 4
batch_size = 64

[[stage]]
name = "warm"
data = [{name = "openclipart", weight = 0.5}]
samples = 1000

[[stage]]
name = "main"
data = ["noto-emoji"]
samples = 2000
batch_size = 16
[stage.clip]
name = "norm"
max_norm = 2.0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "r.toml"
    path.write_text(text)
    return path


def test_flat_and_staged_files(tmp_path: Path) -> None:
    flat = load_recipe(write(tmp_path, FLAT))
    assert (flat.name, len(flat.stage), flat.stage[0].name, flat.stage[0].lr) == ("flat", 1, "train", 0.001)
    assert [spec.split for spec in flat.evaluation.data] == ["val"]
    staged = load_recipe(write(tmp_path, STAGED))
    assert [s.name for s in staged.stage] == ["warm", "main"]
    assert [s.batch_size for s in staged.stage] == [64, 16]
    assert staged.stage[0].data[0].weight == 0.5
    assert staged.stage[1].clip == {"name": "norm", "max_norm": 2.0}
    assert staged.name == "r"


E = "epochs = 2"
MISTAKES = [
    ("lr = 0.001", "lrr = 0.001", r"r.toml, line 5: there is no entry 'lrr'; did you mean 'lr'"),
    ("lr = 0.001", "lr = -1", r"line 5: stage.0.lr: .*greater than 0.*-1"),
    ("lr = 0.001", "lr = ", r"is not valid TOML.*line 5"),
    (E, f"{E}\nsamples = 10", r"line 5: stage.0.samples: give samples or epochs"),
    (f"{E}\n", "", r"stage.0.samples: say how long"),
    (E, f"{E}\nclip = 'nrom'", r"line 5: stage.0.clip: unknown clip 'nrom': did you mean 'norm'"),
    (E, f"{E}\nclip = {{name = 'norm', max_nrm = 1.0}}", r"no setting 'max_nrm': did you mean 'max_norm'"),
    (E, f"{E}\nloss = 'clipp'", r"unknown loss 'clipp': did you mean 'clip'"),
    (E, f"{E}\nloss = {{name = 'clip', smoothin = 0.1}}", r"no setting 'smoothin': did you mean 'smoothing'"),
    (E, f"{E}\noptimizer = 'adamx'", r"unknown optimizer 'adamx': did you mean 'adam"),
    (E, f"{E}\nkind = 'contrastve'", r"unknown kind 'contrastve': did you mean 'contrastive'"),
    (E, f"{E}\naugment = {{rotat = 3.0}}", r"no augmentation 'rotat': did you mean 'rotate'"),
    (E, f"{E}\nschedule = 'cosin'", r"unknown schedule 'cosin': did you mean 'cosine'"),
    (E, f"{E}\nprecision = 'half'", r"line 5: stage.0.precision: .*'float16'"),
    ('data = "openclipart"\n', "", r"stage.0.data: name what to train on"),
    ('"openclipart"', "[{name = 'openclipart', wieght = 2}]", r"no entry 'wieght'; did you mean 'weight'"),
    ("[evaluation]", "[evaluatoin]", r"line 8: there is no entry 'evaluatoin'; did you mean 'evaluation'"),
    ("[evaluation]", "[model]\narch = 'open_clop'\n[evaluation]", r"line 8: model: .*did you mean 'open_clip'"),
]


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in FLAT
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(write(tmp_path, FLAT.replace(old, new)))
    assert caught.value.exit_code == 2
    assert "pydantic" not in str(caught.value)


TOWERS = "vision = {width = 8}\ntext = {width = 8}"
ABSURD = [
    ("epochs = 2", "epochs = 1e400", r"line 4: stage.0.epochs: .*finite number, got inf"),
    ("epochs = 2", "epochs = nan", r"line 4: stage.0.epochs: .*finite number, got nan"),
    ("epochs = 2", "epochs = 1e300", r"line 4: stage.0.epochs: .*less than or equal to 1000000"),
    ("epochs = 2", "samples = 1e999", r"line 4: stage.0.samples: .*finite number, got inf"),
    ("epochs = 2", f"samples = 1{'0' * 250}", r"line 4: stage.0.samples: .*got a number far too large$"),
    ("epochs = 2", f"samples = 1{'0' * 400}", r"not valid TOML: a number of more than 300 digits$"),
    ("epochs = 2", f"samples = 1{'0' * 5000}", r"r.toml is not valid TOML"),
    ("lr = 0.001", "lr = nan", r"line 5: stage.0.lr: .*finite number, got nan"),
    ("lr = 0.001", "lr = inf", r"line 5: stage.0.lr: .*finite number, got inf"),
    (
        "batch_size = 32",
        "batch_size = 1000000000000",
        r"line 6: stage.0.batch_size: .*less than or equal to 1000000, got",
    ),
    ("batch_size = 32", "accumulate = 1000000000000", r"line 6: stage.0.accumulate"),
    ("batch_size = 32", "image_size = 99999999", r"line 6: stage.0.image_size: .*8192"),
    ("batch_size = 32", "warmup = inf", r"line 6: stage.0.warmup: .*finite"),
    ("batch_size = 32", "weight_decay = nan", r"line 6: stage.0.weight_decay: .*finite"),
    ("batch_size = 32", "ema = nan", r"line 6: stage.0.ema: .*finite"),
    ("batch_size = 32", "groups = [{match = '*', lr = inf}]", r"line 6: stage.0.groups.0.lr: .*finite"),
    ("batch_size = 32", "optimizer = {name = 'adamw', eps = nan}", r"line 6: stage.0.optimizer.eps: must be a finite"),
    ("batch_size = 32", "kind = {name = 'dino', momentum = inf}", r"line 6: stage.0.kind.momentum: must be a finite"),
    (
        "batch_size = 32",
        f"kind = {{name = 'dino', prototypes = 1{'0' * 99}}}",
        r"at most 1e\+15, got one of 100 digits",
    ),
    ("batch_size = 32", "augment = {rotate = inf}", r"line 6: stage.0.augment.rotate: must be a finite"),
    ("batch_size = 32", "loss = {name = 'clip', smoothing = nan}", r"stage.0.loss.smoothing: must be a finite"),
    ('"openclipart"', "{name = 'openclipart', weight = inf}", r"stage.0.data.0.weight: .*finite"),
    ('name = "flat"', "seed = -1", r"line 2: seed: .*greater than or equal to 0"),
    ('name = "flat"', f"seed = 1{'0' * 30}", r"line 2: seed: .*4294967295, got 1000"),
    ('name = "flat"', "workers = 1000000", r"line 2: workers: .*1024"),
    (
        "[evaluation]",
        f"[model]\narch = 'open_clip'\ncontext = 0\n{TOWERS}\n[evaluation]",
        r"line 10: model.context: .*from 3",
    ),
    (
        "[evaluation]",
        f"[model]\narch = 'open_clip'\nembed_dim = true\n{TOWERS}\n[evaluation]",
        r"line 10: model.embed_dim",
    ),
    (
        "[evaluation]",
        f"[model]\narch = 'open_clip'\nlogit_scale = 0\n{TOWERS}\n[evaluation]",
        r"line 10: model.logit_sc",
    ),
    (
        "[evaluation]",
        f"[model]\narch = 'open_clip'\nlogit_bias = nan\n{TOWERS}\n[evaluation]",
        r"line 10: model.logit_b",
    ),
    *[
        (
            "[evaluation]",
            f"[model]\narch = 'open_clip'\ntext = {{}}\nvision = {{{entry}}}\n[evaluation]",
            f"line 11: {said}",
        )
        for entry, said in (
            ("layers = []", r"model.vision.layers: must be four numbers, a stage each, or one, got \[\]"),
            ("layers = [1, 0, 2, 1]", r"model.vision.layers: must be a whole number from 1"),
            ("layers = 2.5", r"model.vision.layers: must be a whole number from 1"),
            ("image_size = 32, patch_size = 64", r"model.vision.patch_size: 64 is more than a side of the picture, 32"),
            ("width = -8", r"model.vision.width: must be a whole number from 1"),
            ("image_size = [64, 64, 64]", r"model.vision.image_size: must be one number or two"),
            ("width = 10000000000", r"model.vision.width: must be a whole number from 1 to 65536"),
        )
    ],
    (
        "[evaluation]",
        "[model]\narch = 'open_clip'\ntext = 3\nvision = {}\n[evaluation]",
        r"line 10: model.text: must be a table",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), ABSURD)
def test_absurd_values_are_named_with_their_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in FLAT
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(write(tmp_path, FLAT.replace(old, new)))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs=1e400", r"^--set: stage.0.epochs: .*finite"),
        ("samples=1e999", r"^--set: stage.0.samples: .*finite"),
        ("lr=nan", r"^--set: stage.0.lr: .*finite"),
        ("batch_size=1000000000000", r"^--set: stage.0.batch_size"),
        ("lr=" + "9" * 5000, r"^--set lr: a number of more than 300 digits"),
        ("clip=" + "[" * 50_000, r"^--set clip: lists or tables stand too deep"),
        ("clip=" + "[" * 90 + "]" * 90, r"stand more than 24 deep"),
        ("a" * 20_000 + "=1", r"^--set aaa.*\.\.\.aaa"),
        ("a" * 20_000, r"^--set 'aaa.*\.\.\.aaa.*KEY=VALUE"),
        ("kind=" + "a" * 20_000, r"^--set: stage.0.kind: unknown kind 'aaa"),
    ],
)
def test_absurd_overrides(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_recipe(write(tmp_path, FLAT), set=[override])
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "clip = " + "[" * 100_000,
        "clip = " + "[" * 300 + "]" * 300,
        "model = " + "{a = " * 5_000 + "1" + "}" * 5_000,
        "model = {a" + ".a" * 3_000 + " = 1}",
        "[model" + ".a" * 3_000 + "]\nb = 1",
    ],
    ids=["open", "closed", "tables", "dotted", "header"],
)
def test_a_recipe_nested_without_end_is_refused(tmp_path: Path, text: str) -> None:
    """At every depth: where the parser gives up, and where what comes after it would."""
    with pytest.raises(UsageError, match=r"r\.toml: .*(deep in each other)"):
        load_recipe(write(tmp_path, f"epochs = 1\n{text}\n"))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b", "x" * 200, "new\nline"])
def test_a_stage_is_called_like_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match=r"stage\.0\.name: a stage's folders are called like it"):
        Recipe.from_dict({"data": "openclipart", "epochs": 1, "stage": [{"name": name}]})


def test_infinite_clips_stay_possible() -> None:
    """`inf` takes a constant cap away, as in the packaged `scratch-64`."""
    recipe = Recipe.from_dict({"data": "openclipart", "epochs": 1, "clip": {"name": "norm", "max_norm": float("inf")}})
    assert recipe.stage[0].clip == {"name": "norm", "max_norm": float("inf")}


@pytest.mark.parametrize(
    "model",
    [
        {"arch": "open_clip", "tokenizer": "clip", "vision": {"width": 10, "head_width": 64}, "text": {}},
        {"arch": "open_clip", "tokenizer": "clip", "vision": {"width": 64}, "text": {"width": 10, "heads": 3}},
        {"arch": "promptable", "stem": "none", "width": 10, "heads": 3},
        {"arch": "promptable", "stem": "none", "width": 16, "heads": 0},
        {"arch": "vision", "stem": "none", "options": {"embed_dim": 10, "num_heads": 3}},
        {"arch": "vision", "stem": "none", "options": {"no_such": 3}},
    ],
)  # fmt: skip
def test_what_no_library_can_build_is_a_short_error(tiny: dict[str, Any], model: dict[str, Any]) -> None:
    from binderclip.train import build_model

    with pytest.raises(UsageError, match=r"^(model|open_clip|timm)") as caught:
        build_model(Recipe.from_dict({**tiny, "model": model}).model, seed=0, captions=list)
    assert len(str(caught.value)) < 300


def test_lines_inside_stages(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 14: stage.1.clip.*max_nrm"):
        load_recipe(write(tmp_path, STAGED.replace("max_norm", "max_nrm")))
    with pytest.raises(UsageError, match=r"line 12: stage.1.samples"):
        load_recipe(write(tmp_path, STAGED.replace("samples = 2000", "samples = 'many'")))
    assert locate(STAGED, ["stage", 0, "samples"]) == 7
    assert locate(STAGED, ["stage", 1, "batch_size"]) == 13
    assert locate(STAGED, ["stage", 0, "batch_size"]) == 2


def test_no_such_file(tmp_path: Path) -> None:
    write(tmp_path, FLAT)
    with pytest.raises(UsageError, match=r"no recipe .*q.toml; .*r.toml"):
        load_recipe(tmp_path / "q.toml")


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("lr=3e-4", lambda r: [s.lr for s in r.stage], [3e-4, 3e-4]),
        ("stage.lr=3e-4", lambda r: [s.lr for s in r.stage], [3e-4, 3e-4]),
        ("stage.1.lr=3e-4", lambda r: [s.lr for s in r.stage], [1e-3, 3e-4]),
        ("stage.warm.lr=3e-4", lambda r: [s.lr for s in r.stage], [3e-4, 1e-3]),
        ("stage.main.clip.max_norm=5", lambda r: r.stage[1].clip, {"name": "norm", "max_norm": 5}),
        ("clip=value", lambda r: [s.clip for s in r.stage], ["value", "value"]),
        ("clip=2.5", lambda r: r.stage[0].clip, 2.5),
        ("clip={name='value', clip_value=0.5}", lambda r: r.stage[0].clip, {"name": "value", "clip_value": 0.5}),
        ("seed=9", lambda r: r.seed, 9),
        ("stage.0.data.0.weight=2", lambda r: r.stage[0].data[0].weight, 2.0),
        ("evaluation.every=7", lambda r: r.evaluation.every, 7),
        ("stage.epochs=3", lambda r: [(s.samples, s.epochs) for s in r.stage], [(None, 3.0)] * 2),
    ],
)
def test_overrides(tmp_path: Path, override: str, read: Any, value: Any) -> None:
    assert read(load_recipe(write(tmp_path, STAGED), set=[override])) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr", "KEY=VALUE"),
        ("stage.lrr=1", "did you mean 'lr'"),
        ("stage.5.lr=1", "no stage '5'"),
        ("sead=1", "did you mean 'seed'"),
        ("stage.lr=fast", "^--set: stage.0.lr: .*fast"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_recipe(write(tmp_path, STAGED), set=[override])


def test_keyword_overrides_and_scaling(tiny: dict[str, Any]) -> None:
    recipe = Recipe.from_dict(tiny).overridden(lr=0.5, seed=8, samples=320)
    assert (recipe.stage[0].lr, recipe.seed, recipe.stage[0].samples, recipe.stage[0].epochs) == (0.5, 8, 320, None)
    smaller = recipe.scaled(samples=0.25, batch_size=8, image_size=16)
    assert (smaller.stage[0].samples, smaller.stage[0].batch_size, smaller.stage[0].lr) == (80, 8, 0.25)
    assert smaller.name == "tiny (scaled: samples x0.25, batch_size 8, image_size 16)"
    assert smaller.scaling == {"samples": 0.25, "batch_size": 8, "image_size": 16}
    assert recipe.stage[0].samples == 320


def test_written_recipes_read_back(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, STAGED))
    text = write_toml(recipe.document())
    again = Recipe.from_dict(tomllib.loads(text))
    assert again.document() == recipe.document()


def test_a_kind_brings_its_own_settings(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "mine", lambda context, *, strength=1.0: None)
    tiny["kind"] = {"name": "mine", "strength": 2.0}
    assert Recipe.from_dict(tiny).stage[0].kind == {"name": "mine", "strength": 2.0}
    tiny["kind"] = {"name": "mine", "strenght": 2.0}
    with pytest.raises(UsageError, match="did you mean 'strength'"):
        Recipe.from_dict(tiny)


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_are_valid_by_their_bare_names(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("kind", ["distil-text", "dino", "segmentation-head"])
@pytest.mark.parametrize(
    "entry",
    [{"image_tokens": {"name": "grid"}}, {"text_tokens": "syntax"}, {"positions": "sincos"}, {"teacher": "start"}],
)
def test_entries_that_a_kind_does_not_heed_are_refused(kind: str, entry: dict[str, Any]) -> None:
    document = {"model": "small", "data": ["icons"], "epochs": 1, "kind": kind, **entry}
    with pytest.raises(UsageError, match=f"{next(iter(entry))}.*kind '{kind}'"):
        Recipe.from_dict(document)
    assert Recipe.from_dict({**document, "kind": "contrastive"})


def test_segclip_shortens_captions_but_not_pictures() -> None:
    document = {"model": "small", "data": ["icons"], "epochs": 1, "kind": "segclip"}
    assert Recipe.from_dict({**document, "text_tokens": "syntax"})
    with pytest.raises(UsageError, match=r"image_tokens.*kind 'segclip'"):
        Recipe.from_dict({**document, "image_tokens": {"name": "grid"}})


def test_a_bare_name_is_a_packaged_recipe_unless_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "scratch-64" in list_recipes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch-64").write_text(FLAT)
    assert load_recipe("scratch-64").document()["stage"] == load_recipe(write(tmp_path, FLAT)).document()["stage"]
    (tmp_path / "scratch-64").unlink()
    # A folder of that name, such as a run, hides nothing.
    (tmp_path / "scratch-64").mkdir()
    assert load_recipe("scratch-64").stage[0].epochs == 4
    with pytest.raises(UsageError, match=r"no recipe 'scratch64': did you mean 'scratch-64'\? packaged: .*scratch-64"):
        load_recipe("scratch64")
    with pytest.raises(UsageError, match=r"there is no recipe scratch-64\.toml"):
        load_recipe("scratch-64.toml")


def test_what_a_stage_of_ones_own_demands_is_checked_when_the_recipe_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(stages: Any, index: int, settings: dict[str, Any]) -> None:
        if stages[index - 1].name != settings["behind"]:
            raise UsageError(f"mine: it goes on from {settings['behind']!r}")

    @demands(check=check, one_process=True)
    def mine(context: Any, *, behind: str) -> None:
        raise AssertionError("nothing is trained here")

    monkeypatch.setitem(STAGES, "mine", mine)
    kind = {"name": "mine", "behind": "a"}
    document = {"data": "openclipart", "epochs": 1, "stage": [{"name": "a"}, {"name": "b", "kind": kind}]}
    stages = Recipe.from_dict(document).stage
    check_processes(stages, 1, "ddp")
    with pytest.raises(NotSupported, match="stage 'b': mine runs in one process, and these are 3"):
        check_processes(stages, 3, "ddp")
    kind["behind"] = "c"
    with pytest.raises(UsageError, match=r"recipe: stage\.1\.kind: mine: it goes on from 'c'"):
        Recipe.from_dict(document)
