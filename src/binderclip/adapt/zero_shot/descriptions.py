"""Sentences that describe classes: shipped, read from a file, or written by a language model."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from binderclip.documents import parse_json, read_problem
from binderclip.errors import BinderclipError, DataError, UsageError

URL, MODEL, KEY = "BINDERCLIP_LLM_URL", "BINDERCLIP_LLM_MODEL", "BINDERCLIP_LLM_KEY"
"""Environment variables with the base URL, the model and the key of an OpenAI-compatible service."""


class ServiceError(BinderclipError):
    """A language-model service cannot be reached, refuses, or answers something else than it was asked for."""


@dataclass(frozen=True)
class Descriptions:
    """Class -> sentences, with the attributes the sentences are about.

    Attributes:
        classes: sentence k of every class is about attribute k, where there are attributes.
        attributes: their names, or an empty list.
        about: what the set is of.
    """

    classes: dict[str, list[str]]
    attributes: list[str] = field(default_factory=list)
    about: str = ""

    def of(self, labels: Sequence[str], source: str = "the descriptions") -> dict[str, list[str]]:
        """The sentences of some classes, in the order of `labels`.

        Raises:
            UsageError: a label without sentences.
        """
        missing = [label for label in labels if label not in self.classes]
        if missing:
            known = ", ".join(list(self.classes)[:6]) + (", ..." if len(self.classes) > 6 else "")
            names = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise UsageError(f"{source} has no sentences for {names}; it describes {known}")
        return {label: self.classes[label] for label in labels}


@lru_cache(maxsize=1)
def shipped_descriptions() -> dict[str, Descriptions]:
    """The sets that ship with binderclip, by name, written by hand for the data sets at hand."""
    text = resources.files("binderclip.adapt.zero_shot").joinpath("descriptions.json").read_text(encoding="utf-8")
    return {name: Descriptions(**entry) for name, entry in json.loads(text).items()}


def read_descriptions(source: str | Path) -> Descriptions:
    """A shipped set by its name, or a JSON file of class -> sentences.

    Args:
        source: a name of `shipped_descriptions()`, or a file that holds class -> list of sentences, or an object with
            `classes` and, if wanted, `attributes` and `about`, as `binderclip descriptions` writes it.

    Raises:
        UsageError: neither a set nor a file.
        DataError: a file that is no JSON, or does not hold at least one sentence for every class.
    """
    if str(source) in shipped_descriptions():
        return shipped_descriptions()[str(source)]
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"{source} is neither a shipped set ({', '.join(shipped_descriptions())}) nor a file")
    try:
        document = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_no_twins)
    except _Twin as error:
        raise DataError(f"{path} describes {error} twice") from error
    except ValueError as error:
        raise DataError(f"{path} is {read_problem(error)}") from error
    if not isinstance(document, dict) or not document:
        raise DataError(f'{path} must hold class -> sentences, such as {{"cat": ["a cat with whiskers", ...]}}')
    nested = isinstance(document.get("classes"), dict)
    classes = document["classes"] if nested else document
    if not classes:
        raise DataError(f"{path} describes no class")
    for name, own in classes.items():
        if not isinstance(own, list) or not own:
            raise DataError(f"{path}: class {name!r} needs a list of at least one sentence, not {_short(own)}")
        bad = [sentence for sentence in own if not isinstance(sentence, str) or not sentence.strip()]
        if bad:
            raise DataError(f"{path}: class {name!r} has {_short(bad[0])} where a sentence should be")
    extra = {key: document.get(key, kind()) for key, kind in (("attributes", list), ("about", str))} if nested else {}
    return Descriptions(classes, **extra)


def write_descriptions(
    labels: Sequence[str],
    *,
    url: str | None = None,
    model: str | None = None,
    key: str | None = None,
    attributes: Sequence[str] | None = None,
    count: int = 6,
    words: int = 12,
    timeout: float = 60.0,
    attempts: int = 3,
    prompt: str | None = None,
    progress: Callable[[str], object] | None = None,
) -> Descriptions:
    """Have a language model write visual sentences, the same attributes in the same order for every class.

    The model is asked once which attributes tell the classes apart, then once a class for a sentence on each. The
    service is any that speaks OpenAI's chat completions, also a local one (llama.cpp, Ollama, vLLM). Paper: Enhancing
    CLIP with GPT-4: Harnessing Visual Descriptions as Prompts (arXiv 2307.11661).

    Args:
        labels: class names.
        url: base URL such as `http://127.0.0.1:8080/v1`; None: $BINDERCLIP_LLM_URL.
        model: its name for the service; None: $BINDERCLIP_LLM_MODEL.
        key: sent as a bearer token; None: $BINDERCLIP_LLM_KEY, which may be empty for a local service.
        attributes: what to describe; None asks the model.
        count: how many attributes to ask for.
        words: longest sentence; the bundled model reads 16 tokens.
        timeout: seconds to wait for one answer.
        attempts: how often a class is asked for again when the answer cannot be used.
        prompt: text of a prompt file with the sections [attributes] and [sentences]; None: the shipped one.
        progress: called with each class that is done.

    Raises:
        UsageError: no label, no URL or model, a prompt without its sections.
        ServiceError: the service cannot be reached, refuses, or does not answer with the JSON asked for.
    """
    names = list(labels)
    if not names or len(set(names)) < len(names):
        raise UsageError("labels must be class names, at least one and none twice")
    if count < 1 or attempts < 1:
        raise UsageError(f"count ({count}) and attempts ({attempts}) must be at least 1")
    service = _Service(
        _given("url", url, URL), _given("model", model, MODEL), os.environ.get(KEY, "") if key is None else key, timeout
    )
    ask = _sections(prompt if prompt is not None else shipped_prompt())
    listed = "\n".join(f"- {name}" for name in names)
    if attributes is None:
        text = ask["attributes"].format(classes=listed, count=count)
        chosen = _asked(service, text, "attributes", count, attempts, "the attributes")
    else:
        chosen = list(attributes)
    classes = {}
    for name in names:
        text = ask["sentences"].format(
            name=name, classes=listed, attributes="\n".join(f"- {a}" for a in chosen), count=len(chosen), words=words
        )
        classes[name] = _asked(service, text, "sentences", len(chosen), attempts, repr(name), name)
        if progress is not None:
            progress(name)
    return Descriptions(classes, chosen, f"written by {service.model}")


def shipped_prompt() -> str:
    """The prompt file that `write_descriptions` uses, to be copied and changed."""
    return resources.files("binderclip.adapt.zero_shot").joinpath("descriptions_prompt.txt").read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Service:
    """An OpenAI-compatible service; the key stays out of every message."""

    url: str
    model: str
    key: str = field(repr=False)
    timeout: float = 60.0

    def answer(self, text: str) -> str:
        """What the model says to one message."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0.2}
        head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        place = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(place, json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                document = parse_json(response.read())
            return str(document["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            detail = error.read()[:200].decode(errors="replace").strip()
            hint = f" (set {KEY})" if error.code in (401, 403) else ""
            raise ServiceError(f"{place} refused with status {error.code}{hint}: {detail}") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(f"{place} cannot be reached within {self.timeout:g} s: {reason}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ServiceError(f"{place} did not answer as chat completions do ({type(error).__name__})") from error


def _given(name: str, value: str | None, variable: str) -> str:
    setting = value or os.environ.get(variable, "")
    if not setting:
        raise UsageError(f"{name} of a language-model service is needed: pass it, or set {variable}")
    if name == "url" and not re.match(r"https?://", setting):
        raise UsageError(f"url {setting!r} must begin with http:// or https://, such as http://127.0.0.1:8080/v1")
    return setting


def _sections(prompt: str) -> dict[str, str]:
    parts = re.split(r"^\[(\w+)\]\s*$", prompt, flags=re.M)
    sections = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if not {"attributes", "sentences"} <= set(sections):
        raise UsageError("a prompt file needs the sections [attributes] and [sentences]")
    return sections


def _asked(
    service: _Service, text: str, field_: str, count: int, attempts: int, what: str, name: str | None = None
) -> list[str]:
    """The list under `field_` of the model's JSON answer, asked for again until it can be used."""
    problem = ""
    for _ in range(attempts):
        answer = service.answer(text + (f"\n\nYour last answer could not be used: {problem}" if problem else ""))
        answers = _json_in(answer)
        values = answers.get(field_) if isinstance(answers, dict) else answers
        if not isinstance(values, list) or not all(isinstance(v, str) and v.strip() for v in values):
            problem = f'it was not JSON with a list of texts under "{field_}"'
        elif len(values) != count:
            problem = f"it had {len(values)} {field_} instead of {count}"
        elif name is not None and not all(name.lower() in v.lower() for v in values):
            problem = f'not every sentence held the name "{name}"'
        else:
            return [" ".join(v.split()) for v in values]
    raise ServiceError(f"{service.model} gave no usable answer for {what} in {attempts} attempts: {problem}")


def _json_in(text: str) -> Any:
    """The JSON of an answer, which models like to wrap into a code block or a sentence."""
    for pattern in (r"\{.*\}", r"\[.*\]"):
        match = re.search(pattern, text, flags=re.S)
        if match:
            try:
                return parse_json(match[0])
            except ValueError:
                continue
    return None


class _Twin(Exception):
    """A key that stands in a JSON object twice."""


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise _Twin(repr(name))
        document[name] = value
    return document


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
