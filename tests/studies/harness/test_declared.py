"""Studies declared in TOML: the same objects as those written in Python, words filled from the code, clear refusals."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from binderclip.errors import UsageError
from binderclip.studies import Criterion, Estimate, Pilot, Precondition, Row, Study, combined, criteria_hash, value_of
from binderclip.studies.harness import declared_study
from binderclip.studies.harness.declared import study_of
from binderclip.studies.harness.declared_criteria import number, quantity_of

SEEDS = tuple(range(10, 18))
WORDS = """
claim = "One of {RATES[0]:g} beats {OTHER}, in {{braces}}."
protocol = '''
{STEPS} steps
of two.'''
baseline = "b."
lower_bound = "l."
stand_in = ["small {OTHER}"]
pilot_seeds = [0, 1]
"""
CRITERION = """
[[criteria]]
text = "a above b"
essential = true
value = ["m", "a"]
above = ["m", "b"]
expected = 0.5
spread = 0.1
"""
NAMES = {"RATES": (0.1, 0.2), "OTHER": "the rest", "STEPS": 30}


def measure(seed: int) -> list[Row]:
    return [Row("m", "a", 1.0), Row("m", "b", 0.0)]


def counted(table):
    return True, "0"


def estimated(table):
    return Estimate(0.2, 0.1, 0.3, 400, "bootstrap")


def above(bound: float):
    def test(table):
        return table.mean("m", "a") > bound, "x"

    return test


def declared(text: str, **given: object) -> Study:
    names = NAMES | {"counted": counted, "estimated": estimated, "above": above}
    return study_of(text, "p123_x.toml", names, **({"measure": measure, "seeds": SEEDS} | given))


def written(*criteria: Criterion, **given: object) -> Study:
    return Study("p123", "c.", "p.", "b.", "l.", "", measure, criteria, seeds=SEEDS, **given)  # type: ignore[arg-type]


def test_words_are_filled_and_their_lines_joined() -> None:
    study = declared(WORDS + CRITERION)
    assert study.paper == "p123"
    assert study.claim == "One of 0.1 beats the rest, in {braces}."
    assert study.protocol == "30 steps of two."
    assert (study.upper_bound, study.stand_in) == ("", ("small the rest",))
    assert study.draw is None
    assert study.null == "random"


def test_threads_and_the_null_are_declared() -> None:
    study = declared("one_thread = true\n" + WORDS + CRITERION + '[null]\na = "a, at random"\n')
    assert study.one_thread
    assert study.null == {"a": "a, at random"}


def test_protocols_lend_their_constants() -> None:
    from binderclip.studies.protocols.training.spike import GUESSING

    lent = WORDS.replace('"l."', '"{GUESSING}"')
    assert declared('constants = ["training.spike"]\n' + lent + CRITERION).lower_bound == GUESSING
    with pytest.raises(UsageError, match=r"p123_x.toml: lower_bound: .* defines no GUESSING"):
        declared(lent + CRITERION)


# Each table beside the same condition in Python: the hash covers all that they declare.
@pytest.mark.parametrize(
    ("entry", "criterion"),
    [
        ("", None),
        (
            'value = ["m", "a", "x", "y"]\nbelow = "log 2"\nmargin = -0.5\nclaimed = 0.25',
            Criterion.below("t", value_of("m", "a", "x", "y"), math.log(2), margin=-0.5, claimed=0.25),
        ),
        (
            'value = { log_ratio = [["m", "a"], { least = [["m", "b"], ["m", "c"]] }] }\nabove = "-1/3"\n'
            "spread = 1\npilot_seeds = [5]",
            Criterion.at_least(
                "t",
                value_of("m", "a").log_over(combined("least", value_of("m", "b"), value_of("m", "c"))),
                -1 / 3,
                pilot=Pilot(1, (5,)),
            ),
        ),
        (
            'value = { rank = [["m", "a"], ["m", "b"], ["m", "c"]] }\nabove = 0.5',
            Criterion.rank("t", [value_of("m", name) for name in "abc"], 0.5),
        ),
        (
            'value = { difference = [["m", "a"], 0.5] }\nabove = ["m", "b"]\nover = "items"\nitems = 400',
            Criterion.paired("t", value_of("m", "a") - 0.5, value_of("m", "b"), over="items", items=400),
        ),
        ('exact = "counted"\nwhy = "a theorem"', Criterion.exact("t", counted, why="a theorem")),
        ('test = "counted"', Criterion("t", counted)),
        ('test = ["above", 0.5]', Criterion("t", above(0.5))),
        (
            'estimate = "estimated"\nitems = 400\nspread = 0.5\nexpected = "log 4"',
            Criterion.estimated("t", estimated, items=400, expected=math.log(4), pilot=Pilot(0.5, (0, 1))),
        ),
    ],
)  # fmt: skip
def test_a_table_is_the_criterion_that_python_would_write(entry: str, criterion: Criterion | None) -> None:
    first = Criterion.paired(
        "a above b", value_of("m", "a"), value_of("m", "b"), expected=0.5, pilot=Pilot(0.1, (0, 1)), essential=True
    )
    other = () if criterion is None else (criterion,)
    text = WORDS + CRITERION + ("" if criterion is None else f'[[criteria]]\ntext = "t"\n{entry}\n')
    assert criteria_hash(declared(text)) == criteria_hash(written(first, *other))
    if criterion is not None:
        rival = WORDS + CRITERION + f'[rival]\ntext = "t"\n{entry}\n'
        assert criteria_hash(declared(rival)) == criteria_hash(written(first, rival=criterion))


def test_preconditions_are_declared_as_well() -> None:
    text = '[[preconditions]]\ntext = "it learns"\nvalue = ["m", "a"]\nbelow = "1/4"\n'
    made = Precondition("it learns", value_of("m", "a"), 0.25, lower=True)
    assert declared(WORDS + text + CRITERION).preconditions == (made,)
    assert declared(WORDS + CRITERION, preconditions=(made,)).preconditions == (made,)
    with pytest.raises(UsageError, match=r"preconditions are declared here and given by the module"):
        declared(WORDS + text + CRITERION, preconditions=(made,))


def test_numbers_are_as_they_are_said() -> None:
    assert [number(entry, "x") for entry in (2, 0.5, "log 10", "-log 1.5", "3/8", "-1/13")] == [
        2, 0.5, math.log(10), -math.log(1.5), 0.375, -1 / 13,
    ]  # fmt: skip
    for wrong in ("0.5", "log 0", "1/0", "log", True, None, math.nan, [1]):
        with pytest.raises(UsageError, match=r"x: .* is no"):
            number(wrong, "x")


@pytest.mark.parametrize(
    "entry",
    [["m"], ["m", 1], [], {}, {"mean": []}, {"mean": ["m", "a"]}, {"sum": [["m", "a"]]}, {"ratio": [1, 2, 3]},
     {"rank": [1, 2]}, {"mean": 1, "least": 1}, {"mean": 0.5}, None],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_where_it_stands(entry: object) -> None:
    with pytest.raises(UsageError, match=r"p1.toml: value: "):
        quantity_of(entry, "p1.toml: value")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("{STEPS} steps", "{EPOCHS} steps", r"p123_x.toml: protocol: the study's module defines no EPOCHS"),
        ("{RATES[0]:g}", "{RATES[7]:g}", r"p123_x.toml: claim: a placeholder cannot be filled"),
        ("{RATES[0]:g}", "{OTHER:g}", r"p123_x.toml: claim: a placeholder cannot be filled"),
        ("{{braces}}", "{braces", r"p123_x.toml: claim: a placeholder cannot be filled"),
        ('baseline = "b."', "", r"p123_x.toml: baseline must be given as a text"),
        ('baseline = "b."', "baseline = 1", r"p123_x.toml: baseline must be given as a text"),
        ('baseline = "b."', 'baseline = "b."\ncost = 1', r"p123_x.toml: unknown entries cost; known are claim"),
        ("claim =", "claim", r"p123_x.toml: "),
        ("[[criteria]]", "[criteria]", r"p123_x.toml: criteria must be a list of tables"),
        ("[[criteria]]", "[[rival]]", r"p123_x.toml: rival must be a table"),
        ("pilot_seeds = [0, 1]", "pilot_seeds = [0.5]", r"p123_x.toml: pilot_seeds must be a list of whole numbers"),
        ('baseline = "b."', 'baseline = "b."\none_thread = 1', r"p123_x.toml: one_thread must be true or false"),
        ("[[criteria]]", "[null]\na = 1\n[[criteria]]", r"p123_x.toml: null must be a table of texts"),
        ('stand_in = ["small {OTHER}"]', 'stand_in = "small"', r"p123_x.toml: stand_in must be a list of texts"),
        ("pilot_seeds = [0, 1]", "", r"criteria 1: a spread is that of pilot_seeds"),
        ("pilot_seeds = [0, 1]", 'constants = ["training.none"]', r"constants: there is no protocol 'training.none'"),
        ('text = "a above b"', "", r"p123_x.toml: criteria 1: text is missing"),
        ('above = ["m", "b"]', "", r"criteria 1: a value is held against one of above and below; found none"),
        ('above = ["m", "b"]', "above = 1\nbelow = 2", r"criteria 1: .* found above, below"),
        ('value = ["m", "a"]', "", r"criteria 1: one of value, estimate, exact, test; found none"),
        (
            'value = ["m", "a"]\nabove = ["m", "b"]',
            'exact = "nowhere"\nwhy = "w"',
            r"criteria 1: expected, spread mean",
        ),
        ("essential = true", "essential = 1", r"criteria 1: essential = 1 is no bool"),
        ("essential = true", "bound = 1", r"criteria 1: unknown entries bound; known are above"),
        ("essential = true", 'why = "w"', r"criteria 1: why mean nothing beside value"),
        ("spread = 0.1", 'over = "pictures"', r"criteria 1: over = 'pictures' is neither 'seeds' nor 'items'"),
        ("spread = 0.1", 'spread = "small"', r"criteria 1: spread = 'small' is no float"),
        ("spread = 0.1", "margin = 0.6", r"'a above b': margin 0.6"),
    ],
)
def test_what_a_file_says_wrongly_is_named(old: str, new: str, match: str) -> None:
    text = WORDS + CRITERION
    assert old in text
    with pytest.raises(UsageError, match=match):
        declared(text.replace(old, new))


def test_functions_are_looked_up_in_the_module() -> None:
    extra = '[[criteria]]\ntext = "t"\nexact = "{}"\n'
    with pytest.raises(UsageError, match=r"criteria 2: exact = 'RATES' is no function of the study's module or"):
        declared(WORDS + CRITERION + extra.format("RATES") + 'why = "w"')
    with pytest.raises(UsageError, match=r"criteria 2: exact = \['RATES', 1\] is no function"):
        declared(WORDS + CRITERION + extra.replace('"{}"', '["RATES", 1]') + 'why = "w"')
    with pytest.raises(UsageError, match=r"criteria 2: exact = \['above', 1, 2\]: above\(\) takes 1 positional"):
        declared(WORDS + CRITERION + extra.replace('"{}"', '["above", 1, 2]') + 'why = "w"')
    with pytest.raises(UsageError, match=r"criteria 2: exact needs why"):
        declared(WORDS + CRITERION + extra.format("counted"))


def test_the_file_beside_the_module_is_read(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "made_studies").mkdir()
    (tmp_path / "made_studies" / "__init__.py").write_text("")
    (tmp_path / "made_studies" / "p123_x.toml").write_text(WORDS + CRITERION, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("made_studies.p123_x", "made_studies.p124_y"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(NAMES)
    study = declared_study("made_studies.p123_x", measure, seeds=range(10, 18), one_thread=True)
    assert (study.seeds, study.one_thread, study.protocol) == (SEEDS, True, "30 steps of two.")
    with pytest.raises(UsageError, match=r"there is no p124_y.toml beside made_studies.p124_y"):
        declared_study("made_studies.p124_y", measure, seeds=range(10, 18))
