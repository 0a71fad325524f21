"""Recipes: what they become, presets against DataComp's own code written again, and every mistake by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binderclip.curate import (
    METHODS,
    PRESETS,
    SUMMARIES,
    AnyOf,
    CurationPipeline,
    KeySelection,
    MetadataBalancer,
    ScoreThreshold,
    ScoreTopFraction,
    parse_recipe,
    read_concepts,
    read_recipe,
)
from binderclip.errors import UsageError

from .pools import ListTable

TEXT = """
seed = 4
cleaner = "all"
[[stage]]
name = "datacomp-basic"
language = ""
[[stage]]
name = "any-of"
rules = [{name = "threshold", column = "score", minimum = 0.5}, {name = "number-free", fraction = 0.1}]
[[stage]]
name = "metaclip"
concepts = "concepts.txt"
t = 20
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(TEXT)
    (tmp_path / "concepts.txt").write_text("cat\ndog\n\ncat\n")
    return tmp_path


def test_a_recipe_becomes_rules(folder: Path) -> None:
    recipe = read_recipe("a.toml")
    rules = [rule for _, rule in recipe.stages]
    assert (recipe.seed, recipe.cleaner, len(rules)) == (4, "all", 6)
    assert rules[0] == ScoreThreshold(column="words", minimum=3)
    assert isinstance(rules[4], AnyOf)
    assert rules[4].rules[1] == ScoreTopFraction(column="masked_clip_score", fraction=0.1)
    assert isinstance(rules[5], MetadataBalancer)
    assert rules[5].matcher.entries == ["cat", "dog"]
    plain = {"words", "characters", "side", "aspect", "score", "masked_clip_score"}
    assert recipe.needs == plain | {rules[5].matcher.name}
    other = read_recipe("a.toml", ["seed=9", "stage.2.t=7", "stage.0.language='de'"])
    assert other.seed == 9
    assert other.stages[-1][1].t == 7
    assert len(other.stages) == 7


def test_a_preset_is_a_recipe() -> None:
    ((_, rule),) = read_recipe("number-free").stages
    assert rule == ScoreTopFraction(column="masked_clip_score", fraction=0.4)
    ((_, rule),) = read_recipe("datacomp-clip-score", ["stage.threshold=0.25"]).stages
    assert rule == ScoreThreshold(column="clip_score", minimum=0.25)
    assert set(SUMMARIES) == set(METHODS)
    assert not set(PRESETS) & set(METHODS)


def test_the_basic_filter_is_datacomps() -> None:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["a", "red", "bicycle", "x"], rng.integers(1, 6))) for _ in range(300)]
    names = list(dict.fromkeys(text + f"{i:03d}"[: i % 4] for i, text in enumerate(words)))
    n = len(names)
    width, height = rng.integers(100, 900, n), rng.integers(100, 900, n)
    language = [("en", "de")[i] for i in rng.integers(0, 2, n)]
    columns = {"original_width": width, "original_height": height, "language": language}
    kept = CurationPipeline(list(read_recipe("datacomp-basic").stages)).run(ListTable(columns, names, 3)).selection
    want = []
    for i, text in enumerate(names):  # load_uids_with_basic_filter_helper
        small, large = min(width[i], height[i]), max(width[i], height[i])
        good = len(text.split()) > 2 and len(text) > 5 and small >= 200 and large / small <= 3.0
        want += [text] if good and language[i] == "en" else []
    assert 10 < len(want) < n - 10
    assert kept == KeySelection(want)
    del columns["language"]
    with pytest.raises(UsageError, match="give the data a column `language`"):
        CurationPipeline(list(read_recipe("datacomp-basic").stages)).run(ListTable(columns, names))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "has no stages"),
        ({"stage": []}, "has no stages"),
        ({"stage": [{"name": "top-fraction"}], "sed": 1}, "did you mean 'seed'"),
        ({"stage": [{"column": "x"}]}, "needs a name"),
        ({"stage": [{"name": "treshold"}]}, "did you mean 'threshold'"),
        ({"stage": [{"name": "threshold", "column": "x", "minimun": 1}]}, "did you mean 'minimum'"),
        ({"stage": [{"name": "threshold", "column": "x"}]}, "needs minimum, maximum or both"),
        ({"stage": [{"name": "top-fraction", "column": "x", "fraction": "a"}]}, "fraction is 'a'; it is a number"),
        ({"stage": [{"name": "top-fraction", "column": "x", "fraction": True}]}, "fraction is True; it is a number"),
        (
            {"stage": [{"name": "cluster-pruning", "k": 3.5}]},
            "stage 0: rule 'cluster-pruning': k is 3.5; it is a whole",
        ),
        ({"stage": [{"name": "cap-per-group", "group": "g", "count": 1.5}]}, "count is 1.5; it is a whole number"),
        ({"stage": [{"name": "tail-trimming", "group": "g", "count": 1, "classes": 2.5}]}, "classes is 2.5"),
        ({"stage": [{"name": "threshold", "column": ["score"], "minimum": 1}]}, r"column is \['score'\]; it is a text"),
        ({"stage": [{"name": "metaclip", "concepts": ["a"], "t": "5"}]}, "t is '5'; it is a number or left out"),
        ({"stage": [{"name": "metaclip", "concepts": ["a"], "target": 5.5}]}, "target is 5.5; it is a whole number"),
        ({"stage": [{"name": "metaclip", "concepts": ["a", 3], "t": 1}]}, "it is a text or a list, each of it a text"),
        ({"stage": [{"name": "membership", "member": "m", "values": [["a"]]}]}, r"values is \[\['a'\]\]; it is a list"),
        ({"stage": [{"name": "cluster-pruning", "order": 3}]}, "order is 3; it is one of 'hard', 'easy', 'random'"),
        ({"stage": [{"name": "density-pruning", "k": 3.5}]}, "preset 'density-pruning': k is 3.5"),
        ({"stage": [{"name": "any-of", "rules": [{"name": "cluster-pruning", "k": "3"}]}]}, "k is '3'"),
        ({"stage": [{"name": "any-of", "rules": 3}]}, "list of tables"),
        ({"stage": [{"name": "any-of", "rules": [{"name": "datacomp-basic"}]}]}, "stands for 5 rules"),
        ({"stage": [{"name": "metaclip", "concepts": "none.txt", "t": 1}]}, "none.txt cannot be read"),
        ({"stage": [{"name": "number-free"}], "seed": -1}, "seed is -1"),
        ({"stage": [{"name": "number-free"}], "cleaner": "x"}, "it is one of numbers"),
        ({"stage": [{"name": "number-free"}], "model": 3}, "it is a name"),
    ],
)
def test_mistakes_are_named(document: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_recipe(document)


def test_no_recipe_and_no_preset(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'number-free'"):
        read_recipe("numberfree")
    with pytest.raises(UsageError, match=r"no recipe b\.toml; in \.: a\.toml"):
        read_recipe("b.toml")
    (folder / "blanks.txt").write_text("cat \n\tred  dog\ncat\n \n")
    assert read_concepts("blanks.txt") == ["cat", "red dog"]
    balancer = METHODS["metaclip"](concepts="blanks.txt", t=1)
    assert isinstance(balancer, MetadataBalancer)
    assert balancer.matcher.match("a cat, a red dog") == [0, 1]
    (folder / "list.json").write_text('["a", 3]')
    with pytest.raises(UsageError, match="no list of texts"):
        parse_recipe({"stage": [{"name": "metaclip", "concepts": "list.json", "t": 1}]})
