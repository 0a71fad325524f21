"""A word of the user's own: its vector and the keys and values that know it, for the denoiser that learnt it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.prompts import PromptEncoder
from binderclip.models.files.checkpoint import configured
from binderclip.models.files.fingerprints import of_tensors
from binderclip.models.files.folders import read_folder, write_folder

__all__ = ["PersonalConcept", "PersonalPromptEncoder", "check_new_word", "denoiser_identity", "with_own_attention"]

KIND = "personal-concept"
PREFIX = "attention."
WORD = re.compile(r"<[\w-]+>")


class PersonalPromptEncoder(PromptEncoder):
    """Another encoder of prompts with a new word; prompts without it keep their states.

    Args:
        base: the encoder.
        word: in angle brackets, such as `<mine>`; as it is written, capitals too.
        vector: its row in the table of tokens, to which gradients flow.
        positioned: False leaves out its position embedding, as the release of ClassDiffusion does.

    Raises:
        UsageError: a word without brackets, or a vector of another width.
    """

    def __init__(self, base: PromptEncoder, word: str, vector: Float[Tensor, " D"], *, positioned: bool = True) -> None:
        super().__init__()
        check_new_word(word)
        if vector.shape != (base.width,):
            raise UsageError(f"the vector of {word} must have shape ({base.width},), got {tuple(vector.shape)}")
        self.base, self.word, self.positioned = base, word, positioned
        self.vector = vector if isinstance(vector, nn.Parameter) else nn.Parameter(vector, requires_grad=False)

    @property
    def width(self) -> int:
        return self.base.width

    @property
    def length(self) -> int:
        return self.base.length

    @property
    def frame(self) -> tuple[int, int, int]:
        return self.base.frame

    @property
    def vocabulary(self) -> int:
        return self.base.vocabulary

    def word_vectors(self, ids: Int[Tensor, " L"]) -> Float[Tensor, "L D"]:
        return self.base.word_vectors(ids)

    def states_of(
        self, ids: Int[Tensor, "N L"], vector: Float[Tensor, " D"], *, positioned: bool = True
    ) -> Float[Tensor, "N L D"]:
        return self.base.states_of(ids, vector, positioned=positioned)

    def read_at(self, ids: Int[Tensor, "N L"]) -> Int[Tensor, " N"]:
        return self.base.read_at(ids)

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(text.split(self.word)):
            ids += [self.vocabulary] * (number > 0) + (self.base.tokens(part) if part.strip() else [])
        return ids

    def sequences(self, texts: Sequence[str]) -> Int[Tensor, "N L"]:
        """Ids of whole sequences, of one length.

        Raises:
            UsageError: the word stands beyond the last token that is read.
        """
        start, end, padding = self.frame
        rows = []
        for text in texts:
            ids = self.tokens(text)
            most = self.length - 2  # start and end
            if self.vocabulary in ids[most:]:
                raise UsageError(f"{self.word} stands beyond the {most} tokens that are read of {text!r}")
            row = [start, *ids[:most], end]
            rows.append(row + [padding] * (self.length - len(row)))
        return torch.tensor(rows)

    def states(self, texts: Sequence[str]) -> Float[Tensor, "N L D"]:
        rows = [
            self.states_of(self.sequences([text]), self.vector, positioned=self.positioned)
            if self.word in text
            else self.base.states([text])
            for text in texts
        ]
        return torch.cat(rows)

    def pooled(self, texts: Sequence[str], *, at_word: bool = False) -> Float[Tensor, "N D"]:
        """The states where sentences are read off, after the tower's norm and before its projection.

        Args:
            texts: sentences. at_word: read them off at the new word, where they have it.
        """
        ids = self.sequences(texts)
        states = self.states_of(ids, self.vector, positioned=self.positioned)
        places = self.read_at(ids)  # each sequence's own: phrases differ in length
        new = ids == self.vocabulary
        if at_word:
            places = torch.where(new.any(1), new.int().argmax(1), places)
        return states[torch.arange(len(ids), device=states.device), places.to(states.device)]


@dataclass(frozen=True)
class PersonalConcept:
    """What `personalize` has learnt, for the denoiser that it was learnt with.

    Attributes:
        word: the new word. class_name: what it is one of.
        vector: its row in the table of tokens.
        attention: name -> weights of the keys and values of text attention.
        identity: of the denoiser.
        steps: that were taken. interrupted: whether more were asked for.
        settings: of the training. history: figures of each step.
        positioned: whether the word has a position embedding.
    """

    word: str
    class_name: str
    vector: Float[Tensor, " D"]
    attention: Mapping[str, Tensor]
    identity: str
    steps: int
    interrupted: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    positioned: bool = True

    def apply(self, denoiser: LatentDenoiser) -> LatentDenoiser:
        """The denoiser with the word; the given one stays as it is, and all other weights are shared.

        Raises:
            UsageError: another denoiser than the one that the word was learnt with, or one that has a new word already.
            CheckpointError: weights are missing or of another shape.
        """
        if isinstance(denoiser.text, PersonalPromptEncoder):
            raise UsageError(
                f"the denoiser knows {denoiser.text.word} already: a word is added to a denoiser without one"
            )
        identity = denoiser_identity(denoiser)
        if identity != self.identity:
            raise UsageError(
                f"{self.word} was learnt with another denoiser (its weights have the fingerprint {self.identity[:8]}, "
                f"these {identity[:8]}): open the one that it was learnt with"
            )
        unet = with_own_attention(denoiser)
        parameters = dict(unet.named_parameters())
        expected = {name: parameters[name].shape for name in text_attention(denoiser)}
        if {name: value.shape for name, value in self.attention.items()} != expected:
            raise CheckpointError(f"the keys and values of {self.word} are not those of the denoiser's text attention")
        with torch.no_grad():
            for name, value in self.attention.items():
                parameters[name].copy_(value)
        text = PersonalPromptEncoder(denoiser.text, self.word, self.vector.to(unet.device), positioned=self.positioned)
        return denoiser.with_parts(unet=unet, text=text)

    def save(self, folder: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` and `card.json`, which `load` reads.

        Raises:
            UsageError: `folder` is a file.
            OutputError: it cannot be written.
        """
        config = {
            "word": self.word, "class_name": self.class_name, "identity": self.identity, "steps": self.steps,
            "interrupted": self.interrupted, "positioned": self.positioned,
        }  # fmt: skip
        state = {"vector": self.vector, **{PREFIX + name: value for name, value in self.attention.items()}}
        card = {
            "summary": f"{self.word}, a {self.class_name}, for one denoiser", "settings": dict(self.settings),
            "last": dict(self.history[-1]) if self.history else {},
        }  # fmt: skip
        return write_folder(folder, kind=KIND, config=config, state=state, card=card)

    @classmethod
    def load(cls, folder: str | Path) -> PersonalConcept:
        """Read a folder that `save` wrote.

        Raises:
            CheckpointError: no such folder, of another kind, damaged or incomplete.
        """
        content = read_folder(folder, KIND)
        known = {"word": str, "class_name": str, "identity": str, "steps": int, "interrupted": bool, "positioned": bool}

        def read() -> PersonalConcept:
            fields = {name: content.config[name] for name in known}
            for name, kind in known.items():
                if not isinstance(fields[name], kind):
                    raise TypeError(f"{name} is no {kind.__name__}")
            check_new_word(fields["word"])
            attention = {
                name.removeprefix(PREFIX): value for name, value in content.state.items() if name.startswith(PREFIX)
            }
            return cls(
                **fields, vector=content.state["vector"], attention=attention,
                settings=content.card.get("settings", {}),
            )  # fmt: skip

        return configured(read, Path(folder) / "config.json")


def check_new_word(word: str) -> None:
    """Refuse a new word that an ordinary text could hold.

    Raises:
        UsageError: it is not in angle brackets.
    """
    if not WORD.fullmatch(word):
        raise UsageError(f"a new word stands in angle brackets, such as <mine>, got {word!r}")


def denoiser_identity(denoiser: LatentDenoiser) -> str:
    """A fingerprint of the network's and the text tower's weights; image attention that was added is none of it."""
    state = {f"unet.{name}": value for name, value in denoiser.unet.state_dict().items() if ".processor." not in name}
    state |= {f"text.{name}": value for name, value in denoiser.text.state_dict().items()}
    return of_tensors(type(denoiser.text).__name__, state)


def with_own_attention(denoiser: LatentDenoiser) -> Any:
    """A copy of the network with text keys and values of its own; all other weights are the same tensors.

    Raises:
        NotSupported: a network without text attention.
    """
    names = text_attention(denoiser)
    shared = {
        id(tensor): tensor
        for name, tensor in [*denoiser.unet.named_parameters(), *denoiser.unet.named_buffers()]
        if name not in names
    }
    return copy.deepcopy(denoiser.unet, shared)


def text_attention(denoiser: LatentDenoiser) -> list[str]:
    """Names of the weights that make keys and values of text.

    Raises:
        NotSupported: a network without text attention.
    """
    layers = [
        name.removesuffix(".processor")
        for name, processor in denoiser.unet.attn_processors.items()
        if getattr(processor, "kind", None) == "text"
    ]
    if not layers:
        raise NotSupported("this network has no text attention, so that no word can be taught to it")
    return [f"{layer}.{part}.weight" for layer in layers for part in ("to_k", "to_v")]
