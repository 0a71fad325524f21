"""What `descriptions` is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import checked_labels, labels_text, parse_labels
from binderclip.tasks.request import Option, Request


class DescriptionsRequest(Request):
    """Describe labels by visual sentences, written by a language model or shipped.

    The key of the service is read from BINDERCLIP_LLM_KEY. Nothing is sent anywhere but to the URL you name; a shipped
    set (animals, scenes15, fashion-mnist, digits, textile, openmoji, openclipart) needs no service.

    Examples:

        binderclip descriptions animals

        binderclip descriptions "oak,beech,birch" --out trees.json --url http://127.0.0.1:8080/v1 --model qwen
    """

    task: ClassVar[str] = "descriptions"

    labels: Annotated[
        list[str],
        AfterValidator(partial(checked_labels, option="LABELS")),
        Option(
            "Labels, separated by commas; `@FILE`, one a line; or the name of a shipped set.",
            positional=True,
            parse=partial(parse_labels, option="LABELS"),
            write=labels_text,
        ),
    ]
    out: Annotated[str | None, Option("JSON file for `classify --descriptions`.", ("--out", "-o"), output=True)] = None
    url: Annotated[
        str | None, Option("Base URL of an OpenAI-compatible service, also a local one. [env: BINDERCLIP_LLM_URL]")
    ] = None
    model: Annotated[str | None, Option("Its model. [env: BINDERCLIP_LLM_MODEL]")] = None
    attributes: Annotated[
        Annotated[list[str], AfterValidator(partial(checked_labels, option="--attributes"))] | None,
        Option(
            "What to describe, separated by commas [default: the model chooses].",
            parse=partial(parse_labels, option="--attributes"),
            write=labels_text,
        ),
    ] = None
    count: Annotated[int, Field(ge=1, le=1000), Option("Attributes that the model chooses.")] = 6
    prompt: Annotated[str | None, Option("Prompt file with the sections [attributes] and [sentences].")] = None
    timeout: Annotated[float, Field(ge=1, le=86_400), Option("Seconds to wait for one answer.")] = 60.0

    @property
    def shipped(self) -> str | None:
        """Name of the shipped set that is asked for, if one is."""
        from binderclip.adapt import shipped_descriptions

        return self.labels[0] if len(self.labels) == 1 and self.labels[0] in shipped_descriptions() else None

    @model_validator(mode="after")
    def _kept(self) -> DescriptionsRequest:
        """What a service has written is not only shown."""
        if self.out is None and self.shipped is None:
            raise UsageError("--out FILE is needed: it is what `binderclip classify --descriptions FILE` reads")
        return self
