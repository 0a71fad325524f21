"""Classes in contexts: every class name with every combination of the values of some factors."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.documents import parse_json, read_problem
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel, TextBank

Factors = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class ContextSet:
    """Factors such as background or age, and the sentence that a class stands in.

    Attributes:
        factors: factor -> value -> phrasings; an empty phrasing says nothing about the factor.
        main: the sentence of a class with `{}` for its name, without a full stop.
        source: where the set comes from.
    """

    factors: dict[str, dict[str, list[str]]]
    main: str = "a photo of a {}"
    source: str = ""


@dataclass(frozen=True)
class AttributeProduct:
    """C classes in Z contexts, encoded.

    Attributes:
        bank: C classes with Z rows each, in the order of `contexts`, the bank of a `ContextPool`.
        contexts: the Z composite values, such as "land" or "female, young".
        free: (Z, d) unit rows of the contexts without a class, `ContextPool(infer=...)`'s other source.
    """

    bank: TextBank
    contexts: list[str]
    free: Float[Tensor, "Z d"]


def attribute_product(
    model: ImageTextModel,
    labels: Sequence[str],
    factors: Factors | ContextSet,
    *,
    main: str | Sequence[str] | None = None,
    noun: str = "object",
) -> AttributeProduct:
    """Encode every class in every context.

    The phrasings of one (class, context) are averaged as unit vectors and brought to length one again. Paper: More
    Context, Less Distraction: Visual Classification by Inferring and Conditioning on Contextual Attributes
    (arXiv 2308.01313).

    Args:
        model: encodes the sentences.
        labels: class names.
        factors: factor -> value -> phrasings, or a `ContextSet`; contexts are the combinations of one value a factor.
        main: sentence of a class with `{}` for its name; several are averaged like phrasings. Default: the set's own,
            else "a photo of a {}".
        noun: stands for the class in the class-free rows.

    Raises:
        UsageError: no factor, a factor or value without a phrasing, a sentence without `{}`, or a doubled label.
    """
    refuse_bare_module(model, "attribute_product")
    from binderclip.models import TextBank

    if isinstance(factors, ContextSet):
        main = factors.main if main is None else main
        factors = factors.factors
    sentences = [main or ContextSet.main] if main is None or isinstance(main, str) else list(main)
    for sentence in sentences:
        if sentence.count("{}") != 1:
            raise UsageError(f"main {sentence!r} must hold one {{}} where the class name goes")
    names = list(labels)
    if not names or len(set(names)) < len(names):
        raise UsageError("labels must be class names, at least one and none twice")
    contexts = composite_contexts(factors)
    cells = {
        (name, value): [class_sentence(sentence, name, phrasing) for sentence in sentences for phrasing in phrasings]
        for name in [*names, noun]
        for value, phrasings in contexts.items()
    }
    rows = model.text_bank({f"{name}\n{value}": own for (name, value), own in cells.items()}).prototypes()
    own, free = rows[: len(names) * len(contexts)], rows[len(names) * len(contexts) :]
    owner = torch.arange(len(names), device=rows.device).repeat_interleave(len(contexts))
    texts = [cells[name, value][0] for name in names for value in contexts]
    whole = model.text_bank(names[:1])
    bank = TextBank(names=names, texts=texts, raw=own, owner=owner, scale=whole.scale, bias=whole.bias)
    return AttributeProduct(bank, list(contexts), F.normalize(free, dim=-1))


def composite_contexts(factors: Factors) -> dict[str, list[str]]:
    """Composite value -> phrasings: the product of the factors, the non-empty phrasings joined by commas.

    Raises:
        UsageError: no factor, or a value without a phrasing.
    """
    if not factors or not all(factors.values()):
        raise UsageError("factors must hold at least one factor, and each at least one value")
    for factor, values in factors.items():
        for value, phrasings in values.items():
            if isinstance(phrasings, str) or not phrasings or not all(isinstance(p, str) for p in phrasings):
                raise UsageError(f"{factor}: {value} needs a list of phrasings ('' says nothing), not {phrasings!r}")
    composed = {}
    for chosen in product(*(values.items() for values in factors.values())):
        name = ", ".join(value for value, _ in chosen)
        composed[name] = [", ".join(p for p in parts if p) for parts in product(*(own for _, own in chosen))]
    return composed


def class_sentence(main: str, name: str, phrasing: str) -> str:
    """The sentence of a class in a context, without a stray comma."""
    start = main.replace("{}", name).removesuffix(".")
    return f"{start}, {phrasing}." if phrasing else f"{start}."


def scrambled(factors: Factors, seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """The same factors with every word of a phrasing replaced by random letters of its length: the control."""
    rng = random.Random(seed)

    def word(match: re.Match[str]) -> str:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in match[0])

    return {
        factor: {value: [re.sub(r"\w+", word, phrasing) for phrasing in own] for value, own in values.items()}
        for factor, values in factors.items()
    }


@lru_cache(maxsize=1)
def context_sets() -> dict[str, ContextSet]:
    """The sets that ship with binderclip, by name."""
    text = resources.files("binderclip.adapt.zero_shot").joinpath("contexts.json").read_text(encoding="utf-8")
    return {name: ContextSet(**entry) for name, entry in json.loads(text).items()}


def read_contexts(source: str | Path) -> ContextSet:
    """A shipped set by its name, or a JSON file.

    Args:
        source: a name of `context_sets()`, or a file that holds factor -> value -> phrasings, or an object with
            `factors` and, if wanted, `main`.

    Raises:
        UsageError: neither a set nor a file.
        DataError: a file that does not say what a context set says.
    """
    if str(source) in context_sets():
        return context_sets()[str(source)]
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"{source} is neither a context set ({', '.join(context_sets())}) nor a file")
    try:
        document: Any = parse_json(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is {read_problem(error)}") from error
    wrong = f'{path} must hold factor -> value -> phrasings, such as {{"background": {{"water": ["on water"]}}}}'
    if not isinstance(document, dict):
        raise DataError(wrong)
    factors = document.get("factors", document)
    main = document.get("main", ContextSet.main) if "factors" in document else ContextSet.main
    if not isinstance(factors, dict) or not all(isinstance(values, dict) for values in factors.values()):
        raise DataError(wrong)
    if not isinstance(main, str) or main.count("{}") != 1:
        raise DataError(f"{path}: main must be a sentence with one {{}} where the class name goes, not {main!r}")
    try:
        composite_contexts(factors)
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    return ContextSet(factors, main, str(path))
