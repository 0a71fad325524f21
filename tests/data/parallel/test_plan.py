"""Plans by hand arithmetic: what a phase takes, what binds, where memory ends, and what is not known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from binderclip.data import ClusterPlan, Machines, Phase, PlannedPass, measured_rates, read_rates
from binderclip.data.parallel.plan import checked_samples, first_limit
from binderclip.data.parallel.rates import STORED, Rate
from binderclip.errors import DataError, UsageError

TWO = Machines(count=2, cores=4, memory=1000.0, price=3.0, bandwidth=10.0, operations=50.0)


def hours(*phases: Phase, machines: Machines = TWO) -> float | None:
    one = PlannedPass(name="a", passes=1, phases=phases)
    return ClusterPlan(1.0, machines, (one,)).hours(one)


def test_a_phase_takes_as_long_as_its_slowest_resource() -> None:
    assert hours(Phase(seconds=7200 * 8)) == 2.0  # of eight cores
    assert hours(Phase(seconds=7200, alone=True)) == 2.0  # of one process
    assert hours(Phase(read=36_000, written=36_000)) == 1.0  # 20 bytes a second for both machines
    assert hours(Phase(read=36_000, alone=True)) == 1.0  # 10 for one of them
    assert hours(Phase(exchanged=36_000)) == 1.0  # each machine sends that much
    assert hours(Phase(operations=360_000)) == 1.0  # 100 a second
    assert hours(Phase(seconds=7200 * 8, read=36_000)) == 2.0
    assert hours(Phase(seconds=7200 * 8), Phase(read=72_000)) == 3.0  # one after the other
    cores = Machines(count=2, cores=4)  # they compute as fast as their cores
    plan = ClusterPlan(1.0, cores, (), operations_rate=5.0)
    assert plan.hours(PlannedPass(name="a", passes=1, phases=[Phase(operations=144_000)])) == 1.0


def test_what_binds_costs_and_fits() -> None:
    passes = (
        PlannedPass(name="busy", passes=1, phases=[Phase(seconds=7200 * 8, read=36_000)], worker=10, processes=4),
        PlannedPass(name="slow", passes=2, phases=[Phase(seconds=1.0, read=36_000, alone=True)], single=900),
        PlannedPass(
            name="full", passes=1, phases=[Phase(seconds=3600, alone=True)], worker=30, processes=4, single=900
        ),
    )
    plan = ClusterPlan(1.0, TWO, passes)
    assert [plan.binds(one) for one in passes] == ["processors", "network", "memory: does not fit"]
    assert (plan.total_hours, plan.cost, plan.unknown) == (4.0, 4.0 * 2 * 3, [])
    assert plan.single_hours == 2.0
    names, rows = plan.rows()
    assert [row[names.index("cost")] for row in rows] == ["12.00", "6.00", "6.00", "24.00"]
    assert [row[names.index("over the data")] for row in rows] == ["1x", "2x", "1x", "4x"]
    assert rows[0][names.index("read")] == "36 kB"
    assert json.loads(json.dumps(plan.as_dict()))["passes"][1]["bytes_read"] == 36_000


@pytest.mark.parametrize(
    ("one", "bind"),
    [
        (PlannedPass(name="odd", passes=1, phases=[Phase(seconds=None, read=5.0)]), "unknown"),
        (PlannedPass(name="odd", passes=1, phases=[Phase(seconds=1.0, operations=None)]), "unknown"),
        (PlannedPass(name="odd", passes=1, phases=[Phase(seconds=1.0)], worker=None), "processors"),
        (PlannedPass(name="odd", passes=1, phases=[Phase(seconds=1.0)], single=None), "processors"),
    ],
)
def test_what_is_not_known_makes_a_total_a_lower_bound(one: PlannedPass, bind: str) -> None:
    plan = ClusterPlan(1.0, TWO, (PlannedPass(name="known", passes=1, phases=[Phase(seconds=3600 * 8)]), one))
    assert plan.unknown == ["odd"]
    assert plan.binds(one) == bind
    _, rows = plan.rows()
    assert "?" in rows[1]
    assert [cell for cell in rows[-1] if cell.startswith("at least ")] == ["at least 1", "at least 6.00"]
    assert plan.as_dict()["at_least"] is True


def test_the_first_limit_is_where_memory_ends() -> None:
    def passes(n: float) -> list[PlannedPass]:
        return [
            PlannedPass(name="small", passes=1, phases=[], single=n),
            PlannedPass(name="large", passes=1, phases=[], worker=1.0, processes=5, single=5 * n),
        ]

    found = first_limit(passes, 10_005.0)
    assert found is not None
    assert (found[0].name, round(found[1])) == ("large", 2000)
    assert first_limit(lambda n: [], 1.0) is None
    at_once = first_limit(lambda n: [PlannedPass(name="x", passes=1, phases=[], worker=3.0, processes=9)], 20.0)
    assert at_once is not None
    assert at_once[1] == 0.0


@pytest.mark.parametrize("name", ["count", "cores", "memory", "price", "bandwidth", "operations"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_machines_that_are_none(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} of machines is"):
        Machines(**{name: value})  # type: ignore[arg-type]
    if name != "price":
        with pytest.raises(UsageError, match="above 0"):
            Machines(**{name: 0})  # type: ignore[arg-type]
    assert Machines(price=0.0).price == 0


@pytest.mark.parametrize("samples", [0, -1, math.nan, math.inf, 1e16])
def test_a_number_of_samples_that_is_none(samples: float) -> None:
    with pytest.raises(UsageError, match="samples is"):
        checked_samples(samples)


def test_a_rate_wants_all_its_units_and_no_other() -> None:
    rate = Rate("x", {"row": 2.0, "byte": 0.5}, 0.0)
    assert rate.of(row=3, byte=4) == 8.0
    for wrong in ({"row": 3.0}, {"row": 3.0, "byte": 4.0, "pair": 1.0}):
        with pytest.raises(UsageError, match="rate 'x' is for row, byte"):
            rate.of(**wrong)


def test_stored_rates_are_what_was_measured_at_three_sizes() -> None:
    stored, rates = json.loads(STORED.read_text()), measured_rates()
    assert rates.machine
    assert "load average" in rates.load
    for kind in ("seconds", "bytes"):
        for name, entry in stored[kind].items():
            rate = getattr(rates, kind)[name]
            assert {size for size, *_ in entry["points"]} == {0, 1, 2}, name
            assert all(cost >= 0 for cost in rate.terms.values()), name
            said = [rate.of(**amounts) for _, amounts, _ in entry["points"]]
            measured = [value for *_, value in entry["points"]]
            # what is fitted to points lies among them
            assert min(a / b for a, b in zip(said, measured, strict=True)) < 1.05, name
            assert max(a / b for a, b in zip(said, measured, strict=True)) > 0.95, name
    assert rates.worst.error == max(entry["error"] for entry in stored["seconds"].values())


def test_a_file_that_holds_no_rates(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"machine": 1, "date": 1, "load": 1, "seconds": {"a": 1}, "bytes": {}}'):
        (tmp_path / "rates.json").write_text(text)
        with pytest.raises(DataError, match="no file of measured rates"):
            read_rates(tmp_path / "rates.json")
    with pytest.raises(DataError, match="no file of measured rates"):
        read_rates(tmp_path / "none.json")
