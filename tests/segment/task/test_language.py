"""A language model behind an address: a server of this test answers."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.segment.task import Chains, ChatEndpoint, QuestionChain, questions
from binderclip.segment.task.language import cleaned

PICTURE = Image.new("RGB", (1600, 800), "teal")


@pytest.fixture
def endpoint():
    """(address, what was asked, answers to give)"""
    asked, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers.get("Authorization"), body))
            status, text = answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked, answers
    server.shutdown()
    server.server_close()


def said(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


def test_a_chain_of_three_questions_with_the_picture(endpoint, monkeypatch):
    url, asked, answers = endpoint
    monkeypatch.setenv("A_KEY", "secret")
    answers += [said("A bird on\n a tree."), said("An owl."), said("The bark\nof a tree")]
    chain = QuestionChain(ChatEndpoint(url, "some-model", key="A_KEY"))
    assert chain(PICTURE, "hidden animal") == ("owl", "bark")
    (path, key, body), (_, _, second), (_, _, third) = asked
    assert path == "/v1/chat/completions"
    assert key == "Bearer secret"
    assert body["model"] == "some-model"
    text, picture = body["messages"][1]["content"]
    # GenSAM's wording: a caption, then a name and an environment in one word, each behind what was said before
    questions_asked = ["Image caption.", "Name of the hidden animal in one word.",
                       "Name of the environment of the hidden animal in one word."]  # fmt: skip
    first, then = (
        "Question: Image caption. Answer: A bird on a tree.\n",
        f"Question: {questions_asked[1]} Answer: owl\n",
    )
    assert text["text"] == questions_asked[0]
    assert second["messages"][1]["content"][0]["text"] == first + questions_asked[1]
    assert third["messages"][1]["content"][0]["text"] == first + then + questions_asked[2]
    data = base64.b64decode(picture["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (768, 384)


def test_no_key_is_sent_where_none_is_set(endpoint, monkeypatch):
    url, asked, answers = endpoint
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answers.append(said("x"))
    ChatEndpoint(url, "m")(PICTURE, "?")
    assert asked[0][1] is None


def test_errors_are_short_and_named(endpoint):
    url, _, answers = endpoint
    ask = ChatEndpoint(url, "m")
    answers += [(401, "no key"), (200, "{}"), (200, "no json")]
    for message in ("answers 401: no key", "another form", "no answer from"):
        with pytest.raises(DataError, match=message):
            ask(PICTURE, "?")
    with pytest.raises(DataError, match="no answer from"):
        ChatEndpoint("http://127.0.0.1:9/v1", "m", timeout=2)(PICTURE, "?")
    with pytest.raises(UsageError, match="no address"):
        ChatEndpoint("file:///etc/passwd", "m")
    with pytest.raises(UsageError, match="model"):
        ChatEndpoint(url, " ")


def test_answers_are_cleaned():
    assert cleaned("  It is a Snow Leopard.\nBecause ...") == "snow leopard"
    assert cleaned('"owl"') == "owl"
    assert cleaned("") == ""
    assert cleaned("a very long list of many words") == "very long list"


def test_any_callable_and_any_prompt_file(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('system = "s"\ncaption = "What?"\nobject = "Which {synonym}?"\nsurroundings = "Around it?"\n')
    heard = []
    chain = QuestionChain(lambda image, question: heard.append(question.split("\n")[-1]) or "fox", str(own))
    found = Chains(chain, ("hidden",)).propose(PICTURE, "the hidden animal")
    assert heard == ["What?", "Which hidden animal?", "Around it?"]
    assert found[0].back == "environment"
    assert "{synonym}" in questions()["object"]
    own.write_text('system = "s"')
    questions.cache_clear()
    with pytest.raises(DataError, match="'caption'"):
        questions(str(own))
    with pytest.raises(DataError, match="cannot read"):
        questions(str(tmp_path / "none.toml"))
