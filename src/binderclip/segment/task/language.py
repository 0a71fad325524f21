"""Words from a language model that sees pictures: any callable, or any endpoint that speaks OpenAI's protocol."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from binderclip.documents import parse_json, parse_toml
from binderclip.errors import DataError, UsageError

__all__ = ["ChatEndpoint", "QuestionChain", "questions"]

KEYS = ("system", "caption", "object", "surroundings")
MOST_BYTES = 1_000_000
"""Longest answer of an endpoint that is read."""


@lru_cache(maxsize=8)
def questions(path: str | None = None) -> dict[str, str]:
    """The questions of a prompt file, of the bundled one by default.

    Args:
        path: a TOML file with the texts `system`, `caption`, `object`, `surroundings`; {synonym} stands for the task.

    Raises:
        DataError: the file cannot be read, or lacks one of them.
    """
    try:
        text = (
            Path(path).read_text(encoding="utf-8") if path
            else files("binderclip.segment.task").joinpath("questions.toml").read_text(encoding="utf-8")
        )  # fmt: skip
        table = parse_toml(text)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the questions {path}: {error}") from error
    missing = [key for key in KEYS if not isinstance(table.get(key), str)]
    if missing:
        raise DataError(f"{path} has no text {missing[0]!r}: {', '.join(KEYS)} are asked for")
    return {key: table[key] for key in KEYS}


@dataclass(frozen=True)
class QuestionChain:
    """Asks for a caption, for the object, then for what is around it; what `Chains` takes.

    Each question comes with those before it and their answers.

    Args:
        ask: (picture, question) -> answer: a `ChatEndpoint`, or a function around any model.
        path: of a prompt file; None for the bundled one.
    """

    ask: Callable[[Image.Image, str], str]
    path: str | None = None

    def __call__(self, image: Image.Image, synonym: str) -> tuple[str, str]:
        """Two cleaned answers; an empty one where the model gave nothing that is a name."""
        own, last, answers = questions(self.path), "", []
        for key in ("caption", "object", "surroundings"):
            question = own[key].replace("{synonym}", synonym)
            answer = self.ask(image, last + question)
            answers.append(answer if key == "caption" else cleaned(answer))
            last += f"Question: {question} Answer: {' '.join(answers[-1].split())}\n"
        return answers[1], answers[2]


def cleaned(answer: str) -> str:
    """The name in an answer: its first line, without article, quotes and full stop, three words at most."""
    line = next((line for line in answer.strip().splitlines() if line.strip()), "").lower()
    line = re.sub(r"[^\w\s'-]", " ", line.split(".")[0])
    words = [word for word in line.split() if word not in ("a", "an", "the", "it", "is", "this", "its", "it's")]
    return " ".join(words[:3])


@dataclass(frozen=True)
class ChatEndpoint:
    """A model behind `URL/chat/completions`; nothing is sent anywhere else.

    Args:
        url: such as `http://localhost:11434/v1`.
        model: its name there.
        key: environment variable that holds the key; one that is not set sends none.
        side: longer side in pixels to which a picture is shrunk before it is sent.
        timeout: seconds for an answer.

    Raises:
        UsageError: an address that is not http or https.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    side: int = 768
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).netloc:
            raise UsageError(f"url {self.url!r} is no address: write http://HOST:PORT/v1 or https://...")
        if not self.model.strip():
            raise UsageError("model is empty: name a model that the endpoint has")

    def __call__(self, image: Image.Image, question: str) -> str:
        """The answer to a question about a picture.

        Raises:
            DataError: no connection, an error of the endpoint, or an answer of another form.
        """
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get(self.key):
            headers["Authorization"] = f"Bearer {secret}"
        body = json.dumps(self._body(image, question)).encode()
        address = f"{self.url.rstrip('/')}/chat/completions"
        try:
            request = urllib.request.Request(address, body, headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                document = parse_json(answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            reason = error.read(300).decode(errors="replace")
            raise DataError(f"{address} answers {error.code}: {reason}") from error
        except (OSError, ValueError) as error:
            raise DataError(f"no answer from {address}: {error}") from error
        try:
            return str(document["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{address} answers in another form: choices[0].message.content is not there") from error

    def _body(self, image: Image.Image, question: str) -> dict[str, Any]:
        small = image.convert("RGB")
        small.thumbnail((self.side, self.side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        picture = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": picture}}]
        return {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 60,
            "messages": [{"role": "system", "content": questions()["system"]}, {"role": "user", "content": content}],
        }
