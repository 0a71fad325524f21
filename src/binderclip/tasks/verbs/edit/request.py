"""What `edit` is asked."""

from __future__ import annotations

import difflib
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.diffusion import DEFAULT_DENOISER, DenoiserName, Guidance, Seed
from binderclip.tasks.fields import Device, Images
from binderclip.tasks.request import Option, Request

METHODS: dict[str, int] = {
    "dds": 100,
    "lusd": 100,
    "prompt-to-prompt": 30,
    "stylediffusion": 15,
    "vimaedit": 30,
    "abs-grad-sam": 30,
    "strength": 30,
}
"""Method -> steps by default."""
PAIRED = ("prompt-to-prompt", "stylediffusion", "vimaedit")
"""Methods that sample picture and edit side by side, which one step cannot."""


def _methods() -> tuple[str, ...]:
    return tuple(METHODS)


MARKS = ".,;:!?"
JOINING = """
a an the of on in at with without and or to by for from under over near beside behind before is are was were that which
who as into onto""".split()  # noqa: SIM905
"""Words that end the name of a thing."""


def changed_words(source: str, target: str) -> tuple[str, str]:
    """The words of each text that the other lacks in their place, the first run of them; empty for none."""
    old, new = source.split(), target.split()
    (old_start, old_stop), (new_start, new_stop) = _changed(old, new)
    return _phrase(old[old_start:old_stop]), _phrase(new[new_start:new_stop])


def place_words(source: str, target: str) -> tuple[str, str]:
    """The words of each text whose place in the picture changes: the thing, where the changed words describe one.

    Of "a purple heart" and "a green heart" these are "heart" and "heart": attention to a colour alone need not lie on
    what has it. The thing is what follows the changed words in both texts, up to a word that joins or a verb in -ing.
    """
    old, new = source.split(), target.split()
    (_, old_stop), (_, new_stop) = _changed(old, new)
    thing = []
    for first, second in zip(old[old_stop:], new[new_stop:], strict=False):
        word = first.lower().strip(MARKS)
        if word != second.lower().strip(MARKS) or word in JOINING or word.endswith("ing"):
            break
        thing.append(word)
        if first[-1] in MARKS:  # the phrase ends
            break
    phrase = " ".join(thing)
    return (phrase, phrase) if thing and old_stop + new_stop else changed_words(source, target)


def _changed(old: list[str], new: list[str]) -> tuple[tuple[int, int], tuple[int, int]]:
    old_lower, new_lower = ([word.lower() for word in words] for words in (old, new))
    matcher = difflib.SequenceMatcher(None, old_lower, new_lower, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    if not changes:
        return (0, 0), (0, 0)
    _, old_start, old_stop, new_start, new_stop = changes[0]
    return (old_start, old_stop), (new_start, new_stop)


def _phrase(words: list[str]) -> str:
    return " ".join(words).strip(MARKS)


class EditRequest(Request):
    """Change what a text says of a picture into what another one says, and leave the rest.

    Examples:

        binderclip edit apple.png --from "a red apple" --to "a green apple"

        binderclip edit cat.png --from "a cat" --to "a cat with a hat" --method prompt-to-prompt

    The middle square goes through the model at its own side (64 px of the bundled one). The folder gets each edit at
    that side and a sheet of before and after; and each at the picture's size, with the picture's own detail, unless
    things moved, whose old edges would shine through: `--coarse` blows these up.
    `dds` and `lusd` move the picture itself; `prompt-to-prompt` and `stylediffusion` invert it and keep its attention;
    `vimaedit` needs no inversion; `abs-grad-sam` draws the new thing into it; `strength` draws over it.
    """

    task: ClassVar[str] = "edit"
    document_option: ClassVar[str] = "--request"

    images: Images
    source: Annotated[str, Option("What the picture shows.", ("--from",), label="The picture shows")]
    target: Annotated[str, Option("What it should show.", ("--to",), label="It should show")]
    method: Annotated[
        str,
        Option(
            "`dds`, `lusd`, `prompt-to-prompt`, `stylediffusion`, `vimaedit`, `abs-grad-sam` or `strength`.",
            choices=_methods,
        ),
    ] = "dds"
    word: Annotated[
        str | None,
        Option(
            "The word of --from whose place is edited [default: what differs, or the thing that it describes].",
            label="Word of the picture",
        ),
    ] = None
    new_word: Annotated[
        str | None, Option("The word of --to that comes there [default: as for --word].", label="New word")
    ] = None
    guidance: Guidance = 4.0
    steps: Annotated[
        int | None,
        Field(ge=1, le=2000),
        Option(
            "How many the method takes [default: 100 of dds and lusd, 15 of stylediffusion, else 30].", label="Steps"
        ),
    ] = None
    strength: Annotated[
        float,
        Field(ge=0.01, le=1),
        Option(
            "Of `strength`: how much of the picture becomes noise first; 1 keeps nothing.",
            label="Noise of the method strength",
        ),
    ] = 0.6
    coarse: Annotated[
        bool,
        Option(
            "Where things moved, blow the small edit up to the picture's size, without its detail.",
            ("--coarse",),
            label="Blow up where things moved",
        ),
    ] = False
    seed: Seed = 0
    out: Annotated[str, Option("Folder of edits, sheet and table.", ("--out", "-o"), output=True)] = "edited"
    model: DenoiserName = DEFAULT_DENOISER
    device: Device = "cpu"

    @property
    def steps_taken(self) -> int:
        """Those that were asked for, or the method's."""
        return METHODS[self.method] if self.steps is None else self.steps

    @property
    def words(self) -> tuple[str, str]:
        """The word or words of each text whose place is edited; empty where there is none."""
        old, new = changed_words(self.source, self.target)
        return old if self.word is None else self.word.strip(), new if self.new_word is None else self.new_word.strip()

    @property
    def places(self) -> tuple[str, str]:
        """As `words`, but the thing that they describe where they describe one; words that were named are kept."""
        if self.word is not None or self.new_word is not None:
            return self.words
        return place_words(self.source, self.target)

    @model_validator(mode="after")
    def _fits(self) -> EditRequest:
        if self.source.split() == self.target.split():
            raise UsageError(f"--from and --to are both {self.source!r}: nothing would change")
        for flag, word, of, text in (
            ("--word", self.word, "--from", self.source),
            ("--new-word", self.new_word, "--to", self.target),
        ):
            if word is not None and word.strip().lower() not in text.lower():
                raise UsageError(f"{flag} {word!r} is not in {of} {text!r}")
        if self.method in PAIRED and self.steps == 1:
            raise UsageError(f"--steps 1: {self.method} needs 2 steps at least")
        if self.method == "abs-grad-sam" and not self.words[1]:
            raise UsageError("abs-grad-sam draws a new thing, and --to has no word that --from lacks: give --new-word")
        if self.method == "lusd" and "guidance" in self.given():
            raise UsageError("--guidance does not go with lusd, which has none")
        if self.method != "strength" and "strength" in self.given():
            raise UsageError(f"--strength does not go with {self.method}: it is of --method strength")
        return self
