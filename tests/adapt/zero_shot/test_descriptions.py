"""Sentences of p179 (Enhancing CLIP with GPT-4, arXiv 2307.11661): shipped, read, and asked for over HTTP."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from binderclip.adapt import ServiceError, read_descriptions, shipped_descriptions, shipped_prompt, write_descriptions
from binderclip.errors import DataError, UsageError


class Service(ThreadingHTTPServer):
    """Answers chat completions from a list, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = []
        self.asked: list[tuple[str, dict, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        said = self.server.answers.pop(0)  # type: ignore[attr-defined]
        status, text = said if isinstance(said, tuple) else (200, said)
        if status == 200:
            text = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"BINDERCLIP_LLM_{name}", raising=False)
    server = Service()
    yield server
    server.shutdown()
    server.server_close()


def test_the_shipped_sets_describe_every_class_by_the_same_attributes() -> None:
    from binderclip.data import load_data

    sets = shipped_descriptions()
    for name, found in sets.items():
        assert found.about
        assert found.attributes
        assert all(len(own) == len(found.attributes) for own in found.classes.values()), name
        assert all(len(set(own)) == len(own) for own in found.classes.values()), name
    assert len(sets["animals"].classes) == 20
    for name in ("digits", "openmoji", "openclipart"):
        assert set(sets[name].classes) == set(load_data(name).classes), name
    from binderclip.data.synthetic_scenes.vocabulary import SCENES15

    assert set(sets["scenes15"].classes) == set(SCENES15)


def test_the_model_is_asked_for_attributes_once_and_then_for_each_class(service: Service) -> None:
    service.answers = [
        '```json\n{"attributes": ["colour", "tail"]}\n```',
        'Here it is: {"sentences": ["a cat with grey  fur", "A Cat with a long tail"]}',
        '{"sentences": ["a dog with brown fur", "a dog that wags its tail"]}',
    ]
    done: list[str] = []
    found = write_descriptions(
        ["cat", "dog"], url=service.url, model="tiny", key="s3cret", count=2, progress=done.append
    )
    assert found.classes == {
        "cat": ["a cat with grey fur", "A Cat with a long tail"],
        "dog": ["a dog with brown fur", "a dog that wags its tail"],
    }
    assert (found.attributes, done) == (["colour", "tail"], ["cat", "dog"])
    path, head, body = service.asked[2]
    assert path == "/v1/chat/completions"
    assert head["Authorization"] == "Bearer s3cret"
    assert body["model"] == "tiny"
    text = body["messages"][0]["content"]
    assert text.index("- colour") < text.index("- tail")
    assert 'a picture of "dog"' in text


def test_an_answer_that_cannot_be_used_is_asked_for_again_with_the_reason(service: Service) -> None:
    service.answers = [
        "I would love to help!",
        '{"sentences": ["a cat with fur"]}',
        '{"sentences": ["a cat with fur", "long tail"]}',
        '["a cat with fur", "a cat with a tail"]',
    ]
    found = write_descriptions(["cat"], url=service.url, model="m", attributes=["fur", "tail"], attempts=4)
    assert found.classes == {"cat": ["a cat with fur", "a cat with a tail"]}
    texts = [body["messages"][0]["content"] for _, _, body in service.asked]
    assert "could not be used" not in texts[0]
    assert 'not JSON with a list of texts under "sentences"' in texts[1]
    assert "it had 1 sentences instead of 2" in texts[2]
    assert 'held the name "cat"' in texts[3]
    assert "Authorization" not in service.asked[0][1]
    service.answers = ["no", "no"]
    with pytest.raises(ServiceError, match="m gave no usable answer for 'cat' in 2 attempts"):
        write_descriptions(["cat"], url=service.url, model="m", attributes=["fur"], attempts=2)


def test_refusals_and_silence_are_told_without_the_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDERCLIP_LLM_URL", service.url)
    monkeypatch.setenv("BINDERCLIP_LLM_MODEL", "m")
    monkeypatch.setenv("BINDERCLIP_LLM_KEY", "s3cret")
    service.answers = [(401, "bad key"), (500, "boom"), (200, None)]
    with pytest.raises(ServiceError, match=r"status 401 \(set BINDERCLIP_LLM_KEY\): bad key") as error:
        write_descriptions(["cat"])
    assert "s3cret" not in str(error.value)
    with pytest.raises(ServiceError, match="status 500: boom"):
        write_descriptions(["cat"])
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9/v1/chat/completions cannot be reached within 2 s"):
        write_descriptions(["cat"], url="http://127.0.0.1:9/v1", timeout=2)


def test_files_are_read_and_their_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"cat": ["a cat with whiskers"], "dog": ["a dog", "a dog with a bone"]}')
    found = read_descriptions(path)
    assert found.of(["dog", "cat"]) == {"dog": ["a dog", "a dog with a bone"], "cat": ["a cat with whiskers"]}
    with pytest.raises(UsageError, match=r"words has no sentences for 'cow'; it describes cat, dog"):
        found.of(["cat", "cow"], "words")
    path.write_text(json.dumps({"attributes": ["look"], "classes": {"cat": ["a cat"]}}))
    assert read_descriptions(path).attributes == ["look"]
    assert read_descriptions("animals") is shipped_descriptions()["animals"]
    for text, words in [
        ("{", "is damaged JSON"),
        ("[1]", "must hold class -> sentences"),
        ("{}", "must hold class -> sentences"),
        ('{"cat": []}', r"class 'cat' needs a list of at least one sentence, not \[\]"),
        ('{"cat": "a cat"}', "class 'cat' needs a list"),
        ('{"cat": ["a cat", " "]}', "class 'cat' has \" \" where a sentence should be"),
        ('{"cat": ["a cat"], "cat": ["b"]}', "describes 'cat' twice"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_descriptions(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        read_descriptions(path)
    with pytest.raises(UsageError, match="neither a shipped set"):
        read_descriptions(tmp_path / "none.json")


def test_arguments_are_checked_before_anything_is_sent(service: Service) -> None:
    for options, words in [
        ({"labels": []}, "at least one and none twice"),
        ({"labels": ["a", "a"]}, "none twice"),
        ({"url": None}, "url of a language-model service is needed: pass it, or set BINDERCLIP_LLM_URL"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"model": None}, "model of a language-model service is needed"),
        ({"prompt": "Describe it."}, r"sections \[attributes\] and \[sentences\]"),
        ({"count": 0}, "must be at least 1"),
    ]:
        given = {"labels": ["cat"], "url": service.url, "model": "m"} | options
        with pytest.raises(UsageError, match=words):
            write_descriptions(given.pop("labels"), **given)  # type: ignore[arg-type]
    assert service.asked == []
    assert "{classes}" in shipped_prompt()


def test_the_shipped_sentences_have_the_right_article() -> None:
    """`an` before the sound of a vowel, `a` before any other; the words whose spelling misleads are named."""
    like_vowels, like_consonants = ("hour", "honest", "heir"), ("uni", "use", "usual", "eu", "one", "u-")
    sentences = [text for own in shipped_descriptions().values() for texts in own.classes.values() for text in texts]
    found = [pair for text in sentences for pair in re.findall(r"\b(an?) ([a-z-]+)", text.lower())]
    assert len(found) > 500
    wrong = []
    for article, word in found:
        vowel = (word[0] in "aeiou" and not word.startswith(like_consonants)) or word.startswith(like_vowels)
        wrong += [f"{article} {word}"] if (article == "an") != vowel else []
    assert wrong == []
