"""From labelled pictures to the best head: draw, cross-validate every candidate, choose, and only then test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from binderclip.adapt.heads.settings import check_setting
from binderclip.adapt.selection.candidate_heads import candidates, catalogue
from binderclip.adapt.selection.compare import CandidateComparison, Job, compare_candidates
from binderclip.adapt.selection.encoded import encode_dataset
from binderclip.adapt.selection.final import calibrate, examine, final_fit, learning_curve
from binderclip.adapt.selection.measures import mcnemar, selection_optimism
from binderclip.adapt.selection.result import Examined, MethodScore, Selection
from binderclip.adapt.selection.splits import DataSplit, near_duplicates, split_parts
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module

PICTURES = 4000
"""Pictures that are looked at in all where nobody says how many: a minute or two through a small model."""

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel, TextBank


def select_head(
    model: ImageTextModel,
    data: ImageTextDataset,
    *,
    shots: int = 16,
    seeds: int = 3,
    methods: str | Sequence[str] = "auto",
    bank: TextBank | None = None,
    templates: str | Sequence[str] | None = "simple",
    folds: int = 4,
    budget: float = 600.0,
    keep: float = 0.95,
    seed: int = 0,
    limit: int | None = None,
    store: str | Path | None = None,
    progress: Callable[[str], object] | None = None,
    judged: Callable[[str, MethodScore | str], object] | None = None,
) -> Selection:
    """Find the best head for labelled pictures, and say how good it is without fooling anybody.

    The test part is fixed first and looked at once, at the end, by the winner and the second. Everything before, the
    tuning of each head's own grid included, happens by cross-validation inside `shots` pictures a class.

    Args:
        model: encodes the pictures; features come from the cache where they are there.
        data: pictures with labels; unlabelled ones are left aside. A split named `test` is respected.
        shots: pictures a class that may be learned from, validation included; at least 2, or 1 with a single method.
        seeds: independent draws of the shots; the intervals are over them.
        methods: `auto`, `all`, or names of `adapt.METHODS` and `zero-shot-auto`, `zero-shot-max`.
        bank: sentences of the classes, by name; None: class names in `templates`.
        templates: as `ImageTextModel.text_bank` takes them.
        folds: of the cross-validation.
        budget: seconds that may pass; a candidate that would not fit into the rest is left out and named.
        keep: share of pictures of these classes that the abstain option must not refuse, in (0, 1).
        seed: first of the seeds, and of the test part.
        limit: most pictures a class that are looked at, drawn at random before anything is encoded, half of them from a
            given test split; None: about 4,000 in all, and never fewer than 4 x shots a class.
        store: folder for finished cells, from which a killed run goes on; None keeps nothing.
        progress: called with a line at every step.
        judged: called after every candidate with its name and its row of the table, or why it was left out.

    Returns:
        The `Selection`.

    Raises:
        UsageError: bad settings, class names that read the same, or too few pictures.
        DataError: no picture can be read, or there are fewer than two classes.
    """
    refuse_bare_module(model, "select_head")
    began = time.monotonic()
    say = progress or (lambda line: None)
    _check(shots, seeds, folds, budget, keep, methods, limit)
    candidates(methods, None, None, catalogue())  # a wrong name is refused before any picture is encoded
    labelled, notes = _looked_at(data, shots, limit, seed)
    encoded = encode_dataset(model, labelled, progress=lambda done, of: say(f"encoding pictures: {done} of {of}"))
    kinds, targets = np.unique(labelled.labels[encoded.rows], return_inverse=True)
    names = np.array([data.classes[k] for k in kinds], dtype=str)
    _check_names(names)
    groups = near_duplicates(encoded.thumbnails)
    given = labelled.attributes.get("split")
    given = None if given is None else [given[int(row)] for row in encoded.rows]
    parts = split_parts(targets, groups, shots=shots, given=given, seed=seed)
    if bank is None:
        bank = model.text_bank([str(name) for name in names], templates)
    bank = bank.align([str(name) for name in names])
    on_judged = judged or (lambda name, outcome: None)
    job = Job(model, labelled, encoded, names, targets, groups, began + budget, folds, say, on_judged)
    comparison = compare_candidates(
        job, parts, candidates(methods, model, bank, catalogue()), shots, range(seed, seed + seeds), store, bank
    )
    return _finish(job, parts, comparison, shots, seeds, keep, began, notes + notes_of(job, parts))


def _finish(
    job: Job,
    parts: DataSplit,
    comparison: CandidateComparison,
    shots: int,
    seeds: int,
    keep: float,
    began: float,
    notes: list[str],
) -> Selection:
    winner, first = comparison.scores[0], comparison.draws[0]
    curve = learning_curve(job, comparison)
    finalists = [final_fit(job, comparison.candidates[s.name], first) for s in comparison.scores[:2]]
    scales = [
        calibrate(job, comparison.candidates[score.name], head, comparison.draws, keep)
        for score, head in zip(comparison.scores, finalists, strict=False)
    ]
    temperature, threshold = scales[0]
    examined: list[Examined | None] = [None, None]
    paired, rejected = None, float("nan")
    if len(parts.test):
        for place, (score, head) in enumerate(zip(comparison.scores, finalists, strict=False)):
            examined[place] = examine(job, score.name, comparison.candidates[score.name], head, parts, scales[place][0])
        targets = job.targets[parts.test]
        right = [None if e is None else e.probs.argmax(axis=1) == targets for e in examined]
        rejected = _rejected(examined[0], right[0], threshold)
        if right[0] is not None and right[1] is not None:
            paired = mcnemar(right[0], right[1])
    optimism = selection_optimism(np.array([s.fold_errors for s in comparison.scores])) if winner.fold_errors else 0.0
    return Selection(
        scores=comparison.scores,
        head=finalists[0],
        classes=[str(name) for name in job.names],
        test=examined[0],
        runner_up=examined[1],
        paired=paired,
        optimism=optimism,
        temperature=temperature,
        threshold=threshold,
        keep=keep,
        rejected=rejected,
        curve=curve,
        left_out=comparison.left_out,
        notes=notes,
        data=job.data,
        parts=parts,
        encoded=job.encoded,
        targets=job.targets,
        shots=shots,
        seeds=seeds,
        seconds=time.monotonic() - began,
        model=job.model.name,
    )


def _rejected(examined: Examined | None, right: np.ndarray | None, threshold: float) -> float:
    """Share of the mistakes that the threshold would have refused."""
    if examined is None or right is None or right.all():
        return float("nan")
    return float((examined.probs.max(axis=1) < threshold)[~right].mean())


def _looked_at(data: ImageTextDataset, shots: int, limit: int | None, seed: int) -> tuple[ImageTextDataset, list[str]]:
    """The labelled pictures, at most `limit` a class, and what was left aside."""
    notes = []
    labelled = data.subset(np.flatnonzero(data.labels >= 0))
    if len(labelled) < len(data):
        notes.append(f"{len(data) - len(labelled)} pictures without a label are left aside")
    kinds = np.unique(labelled.labels)
    most = limit if limit is not None else max(4 * shots, PICTURES // max(1, len(kinds)))
    split = labelled.attributes.get("split", [None] * len(labelled))
    test = np.array([str(name) == "test" for name in split])
    of_test = most // 2 if test.any() and not test.all() else most
    kept: list[np.ndarray] = []
    for c in kinds:
        for part, room in ((test, of_test), (~test, most - of_test if of_test < most else most)):
            rows = np.flatnonzero((labelled.labels == c) & part)
            kept.append(np.random.default_rng([seed, 4, int(c)]).permutation(rows)[:room])
    rows = np.sort(np.concatenate(kept)) if kept else np.empty(0, int)
    if len(rows) < len(labelled):
        notes.append(
            f"{len(rows)} of {len(labelled)} pictures are looked at, at most {most} a class (--limit changes that)"
        )
        labelled = labelled.subset(rows)
    return labelled, notes


def notes_of(job: Job, parts: DataSplit) -> list[str]:
    """What a user should know about the data."""
    names, targets = job.names, job.targets
    counts = np.bincount(targets, minlength=len(names))
    keys = [job.data.keys[int(row)] for row in job.encoded.rows]
    notes = []
    single = [str(names[c]) for c in np.flatnonzero(counts == 1)]
    if single:
        notes.append(f"one picture only, so trained on and never tested: {_listed(single)}")
    if counts.max() >= 5 * max(1, counts.min()):
        notes.append(
            f"classes differ in size ({names[counts.argmin()]} {counts.min()}, {names[counts.argmax()]} "
            f"{counts.max()}): look at macro-F1 beside accuracy"
        )
    if parts.duplicates:
        notes.append(f"{parts.duplicates} near-duplicates are kept on one side of every split")
    if parts.dropped:
        notes.append(f"{parts.dropped} training pictures look like a test picture and were dropped")
    if parts.conflicts:
        pairs = [f"{keys[a]} ({names[targets[a]]}) and {keys[b]} ({names[targets[b]]})" for a, b in parts.conflicts]
        notes.append(f"{len(pairs)} pairs look the same and are labelled differently, such as {pairs[0]}")
    return notes


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check(
    shots: int, seeds: int, folds: int, budget: float, keep: float, methods: str | Sequence[str], limit: int | None
) -> None:
    counts = {"shots": (shots, 1), "seeds": (seeds, 1), "folds": (folds, 2), "limit": (limit, 1)}
    for name, (value, least) in counts.items():
        check_setting(name, value, whole=True)
        if value is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    if not budget > 0:
        raise UsageError(f"budget must be above 0 seconds, not {budget}")
    if not 0 < keep < 1:
        raise UsageError(f"keep must lie between 0 and 1, not {keep}")
    one = methods not in ("auto", "all") if isinstance(methods, str) else len(methods) == 1
    if shots == 1 and not one:
        raise UsageError(
            "with 1 shot a class there is no validation to choose a method by: name one, or give at least 2 shots"
        )


def _check_names(names: np.ndarray) -> None:
    if len(names) < 2:
        have = f"only {str(names[0])!r}" if len(names) else "none"
        raise DataError(f"a classifier needs pictures of at least two classes; there is {have}")
    seen: dict[str, str] = {}
    for name in names.tolist():
        plain = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
        if plain in seen:
            raise UsageError(
                f"the classes {seen[plain]!r} and {name!r} read the same, so no text can tell them apart: merge them, "
                "or rename one"
            )
        seen[plain] = name
