"""What `binderclip probe` measures: one table of predictions, every grouping of it, and mitigations beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from binderclip.adapt import GroupThresholds, LastLayerRetraining, remove_direction
from binderclip.data import ImageTextDataset, held_out_split, load_data, reweigh
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import GroupReport, PredictionTable, group_report, predict
from binderclip.evaluate.probes import (
    Measure,
    accuracy,
    calibration_error_measure,
    false_positive_rate_measure,
    holm,
    mean_class_accuracy,
    mean_confidence,
    positive_predictive_value_measure,
    selection_rate_measure,
    true_positive_rate_measure,
)
from binderclip.models import load_encoder, resolve_templates
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep
from binderclip.tasks.verbs.probe.request import ProbeRequest
from binderclip.tasks.verbs.probe.result import FIGURES, PAGE, Mitigation, Probe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from binderclip.adapt.groups.thresholds import Constraint
    from binderclip.evaluate.probes import Grouping
    from binderclip.evaluate.probes.group_reports import Null
    from binderclip.models import ImageTextModel, TextBank

LEAST, MOST_VALUES, LEAST_HALF = 20, 12, 40
"""Pictures needed, values that a column found by itself may have, pictures below which no half is fitted on."""
A_GAP = 40
"""Permutations for each gap of a page: with fewer than 20, none could pass a correction for all of them."""
NOT_GROUPS = ("split", "id", "key")


def run(request: ProbeRequest) -> Probe:
    """Classify the pictures once, compare their groups, and write the folder.

    Raises:
        UsageError: shards, an unknown column or class, too few classes, or a result that would replace what is none of
            ours.
        DataError: too few pictures, no labels, no column that makes groups, or a file that cannot be written.
    """
    from binderclip.tasks.verbs.probe.report import write_results

    folder = output_folder(request.out, make=False)
    writable_paths([folder / PAGE, folder / FIGURES])
    writable_paths([folder / "groups.csv", folder / "predictions.parquet"], beside=folder / FIGURES)
    ask_for_room(folder, REPORT)
    start("loading the model")
    probe = _probed(request)
    start("writing the page")
    save_or_keep(lambda place: write_results(probe, output_folder(place)), folder)
    emit(Saved(probe.report))
    skip(probe.skipped)
    return probe


def _probed(request: ProbeRequest) -> Probe:
    """Classify the pictures once and compare their groups."""
    source, positive = request.data, request.positive
    sentences = resolve_templates(request.templates)
    split = held_out_split(source) if request.split is None else request.split
    data = load_data(source, split=None if split == "all" else split)
    if not isinstance(data, ImageTextDataset):
        raise UsageError(f"{source}: shards are streamed; give a folder or a named set")
    classes = list(request.labels or data.classes)
    if len(classes) < 2:
        raise UsageError(
            f"{source} has {number_of(len(classes), 'class')}: a probe compares answers, give two labels or more"
        )
    if positive is not None and positive not in classes:
        raise UsageError(f"positive class {positive}: the classes are {', '.join(classes[:20])}")
    for column in (column for names in request.groupings for column in names):
        data.column(column)  # an unknown one is refused before any work
    model = load_encoder(request.model, device=request.device, dtype=request.dtype)
    bank = model.text_bank(classes, sentences)
    count = min(len(data), request.limit or len(data))
    step = batches("picture")
    done = predict(
        model, data, bank, batch_size=request.batch_size, limit=request.limit, progress=lambda n: step(n, count)
    )
    table = done.table
    if len(table) < LEAST:
        raise DataError(
            f"{source} has {number_of(len(table), 'picture')} that can be read: a probe needs {LEAST}, better thousands"
        )
    if not table.known.any():
        raise DataError(f"no picture of {source} has one of the classes {', '.join(classes[:10])}: nothing is right")
    start("comparing groups")
    chosen, left_out = _groupings(table, request.groupings)
    measures = _measures(positive)
    draws = max(request.draws, A_GAP * len(chosen) * len(measures))
    null: Null = "all" if request.null == "all" else "given"
    reports = [
        group_report(table, *names, measures=measures, draws=draws, seed=request.seed, null=null) for names in chosen
    ]
    mitigations = []
    for report in reports:
        start(f"measuring mitigations for {' x '.join(report.names)}")
        mitigations += _mitigated(model, bank, table, done.features, report, positive, request.seed, left_out)
    left_out += [line for report in reports for line in report.reasons]
    where = f"{source}, split {split}" if split else source
    return Probe(request, model.name, where, table, done.data, _adjusted(reports), mitigations, left_out, done.skipped)


def _measures(positive: str | None) -> list[Measure]:
    measures = [accuracy(), mean_class_accuracy(), mean_confidence(), calibration_error_measure()]
    if positive is not None:
        rates = (
            selection_rate_measure,
            true_positive_rate_measure,
            false_positive_rate_measure,
            positive_predictive_value_measure,
        )
        measures += [rate(positive) for rate in rates]
    return measures


def _groupings(table: PredictionTable, groups: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The groupings asked for, or every column with few values; and which were left out."""
    if groups:
        return list(dict.fromkeys(groups)), []
    chosen: list[tuple[str, ...]] = []
    left_out = []
    for name in table.attributes:
        values = {value for value in table.attributes[name] if value is not None}
        if name in NOT_GROUPS or len(values) < 2:
            continue
        if len(values) > MOST_VALUES:
            left_out.append(
                f"column {name}: {number_of(len(values), 'value')}, more than {MOST_VALUES}; name it to have it"
            )
        elif sum(int(count) >= LEAST // 2 for count in table.groups(name).counts) < 2:
            left_out.append(f"column {name}: fewer than two values with {number_of(LEAST // 2, 'picture')}")
        else:
            chosen.append((name,))
    if not chosen:
        there = ", ".join(table.attributes) or "none"
        raise DataError(
            f"no column makes groups: there are {there}; put one into captions.csv, or name one with more values"
        )
    return chosen, left_out


def _adjusted(reports: Sequence[GroupReport]) -> list[GroupReport]:
    """Holm's correction over the gaps of all groupings together."""
    together = iter(holm([gap for report in reports for gap in report.gaps.values()]))
    return [replace(report, gaps={name: next(together) for name in report.gaps}) for report in reports]


def _mitigated(
    model: ImageTextModel, bank: TextBank, table: PredictionTable, features: Float[Tensor, "N E"],
    report: GroupReport, positive: str | None, seed: int, left_out: list[str],
) -> list[Mitigation]:  # fmt: skip
    """Each mitigation fitted on one half of the pictures with a class and a group, all measured on the other."""
    grouping = table.groups(*report.names)
    large = {values for values in grouping.values if values not in report.small}
    usable = np.array([g >= 0 and grouping.values[g] in large for g in grouping.index]) & table.known
    rows = np.random.default_rng([seed, len(table)]).permutation(np.flatnonzero(usable))
    by = " x ".join(report.names)
    if len(large) < 2:
        left_out.append(f"mitigations by {by}: fewer than two groups are large enough")
        return []
    if len(rows) < LEAST_HALF:
        left_out.append(
            f"mitigations by {by}: {number_of(len(rows), 'picture')} with a class in large groups, fewer than "
            f"{LEAST_HALF}"
        )
        return []
    group, target = grouping.index, table.target
    # Every second one of each class and group: a class that one half has more of would be learned as the group's.
    rows = rows[np.lexsort((target[rows], group[rows]))]
    fit, held = rows[::2], rows[1::2]
    x = torch.nn.functional.normalize(features.float().cpu(), dim=1)
    answers = {"as it is": table.predicted[held]}
    if len(np.unique(target[fit])) > 1:
        retrained: dict[str, dict[str, Any]] = {
            "last layer retrained": {},
            "last layer retrained, classes and groups reweighed": {"sample_weight": reweigh(target[fit], group[fit])},
            "last layer retrained, all groups alike": {"sensitive_features": group[fit]},
        }
        for name, how in retrained.items():
            head = LastLayerRetraining(C=10.0).fit(x[fit].numpy(), target[fit], **how)
            answers[name] = head.predict(x[held].numpy())
    texts = [str(value) for values in large for value in values]
    if 1 < len(set(texts)) <= MOST_VALUES and all(isinstance(v, str) for values in large for v in values):
        own = model.encode_text(sorted(set(texts)), normalize=True).float().cpu()
        cleaned = remove_direction(x[held], own[1:] - own[0])
        answers["directions of the groups' names removed"] = bank.logits(cleaned.to(features)).argmax(1).cpu().numpy()
    mitigations = []
    for name, answer in answers.items():
        right = answer == target[held]
        mitigations.append(
            _mitigation(report.names, name, float(right.mean()), "accuracy", right, group[held], grouping)
        )
    if positive is not None:
        mitigations += _thresholds(table, positive, fit, held, report.names, left_out)
    return mitigations


def _thresholds(
    table: PredictionTable, positive: str, fit: np.ndarray, held: np.ndarray, names: tuple[str, ...],
    left_out: list[str],
) -> list[Mitigation]:  # fmt: skip
    """The decision for or against the positive class, by one threshold and by one a group."""
    column, grouping = table.class_index(positive), table.groups(*names)
    margin = table.scores[:, column] - np.delete(table.scores, column, axis=1).max(axis=1)
    truth, own = table.target == column, grouping.index
    decisions = {f"{positive} or not, as it is": margin[held] > 0}
    constraints: dict[Constraint, str] = {
        "demographic_parity": "one selection rate",
        "true_positive_rate_parity": "one true positive rate",
    }
    for constraint, words in constraints.items():
        try:
            fitted = GroupThresholds(constraint=constraint).fit(margin[fit], truth[fit], sensitive_features=own[fit])
            chosen = fitted.predict(margin[held], sensitive_features=own[held])
        except UsageError as error:
            left_out.append(f"thresholds for {words}: {error}")
            continue
        decisions[f"{positive} or not, a threshold for each group: {words}"] = chosen
    mitigations = []
    for name, chosen in decisions.items():
        accurate = float((chosen == truth[held]).mean())
        mitigations.append(_mitigation(names, name, accurate, "selection rate", chosen, own[held], grouping))
        if truth[held].any():
            mine = truth[held]
            mitigations.append(
                _mitigation(names, name, accurate, "true positive rate", chosen[mine], own[held][mine], grouping)
            )
    return mitigations


def _mitigation(
    names: tuple[str, ...], method: str, accurate: float, measure: str, hit: Bool[np.ndarray, "n"],
    own: Int[np.ndarray, "n"], grouping: Grouping,
) -> Mitigation:  # fmt: skip
    """One row: `hit` is averaged over the rows of each group, `own`."""
    values = {g: float(hit[own == g].mean()) for g in np.unique(own)}
    lowest = min(values, key=lambda g: values[g])
    gap = max(values.values()) - values[lowest]
    return Mitigation(names, method, accurate, measure, values[lowest], gap, grouping.values[lowest], len(hit))
