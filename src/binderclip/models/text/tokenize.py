"""Texts to token ids, one result whatever the tokenizer.

A backbone needs the ids; a text tower that is looked into also needs to know which tokens are real and at which one the
sentence is read off. `TokenIds` carries all three.
"""

from __future__ import annotations

import hashlib
import html
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.files import write_whole

Pooling = Literal["first", "last", "argmax", "eos", "appended", "mean"]


@dataclass(frozen=True)
class TokenIds:
    """Q tokenised sentences of length L.

    Args:
        ids: (Q, L) vocabulary indices.
        mask: (Q, L) True for real tokens, False for padding.
        position: (Q,) index of the token whose state becomes the sentence; L where the tower appends a token of its own
            for that (CoCa), -1 where it averages the real tokens.
    """

    ids: Int[Tensor, "Q L"]
    mask: Bool[Tensor, "Q L"]
    position: Int[Tensor, "Q"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> TokenIds:
        return TokenIds(self.ids[index], self.mask[index], self.position[index])

    def to(self, device: torch.device | str) -> TokenIds:
        """The same on another device."""
        return TokenIds(self.ids.to(device), self.mask.to(device), self.position.to(device))


class Tokenizer:
    """Base of the tokenizers: `encode` gives padded ids and their mask; over-long texts are cut, the end token kept.

    Args:
        context_length: L.
        end_id: id of the end token, None where there is none.
    """

    def __init__(self, context_length: int, end_id: int | None) -> None:
        self.context_length = context_length
        self.end_id = end_id
        self._warned = False

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        """ids, mask, and the indices of the texts that had to be cut."""
        raise NotSupported(f"{type(self).__name__} does not tokenise")

    def save(self, folder: Path) -> None:
        """Write what open_clip needs to find this tokenizer in a model folder (nothing, by default)."""

    def signature(self) -> str:
        """Text that differs where two tokenizers differ, for fingerprints."""
        return f"{type(self).__name__}:{self.context_length}:{self.end_id}"

    def __call__(self, texts: str | Sequence[str], pooling: Pooling, end_id: int | None = None) -> TokenIds:
        """Tokenise.

        Args:
            texts: one text or several.
            pooling: how the text tower reads the sentence off.
            end_id: the id its pooling looks for, where it names one; default the tokenizer's own.

        Raises:
            UsageError: no text, or something that is not a text.
            NotSupported: the end token is not where the tower would look for it.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UsageError("texts is empty: give at least one")
        for text in texts:
            if not isinstance(text, str):
                raise UsageError(f"texts must be strings, got {type(text).__name__}: {text!r}")
        ids, mask, cut = self.encode(texts)
        if cut and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than {self.context_length} tokens and were cut (the end "
                f"token is kept), the first: {texts[cut[0]][:60]!r}; later ones are cut without a word",
                stacklevel=3,
            )
        return TokenIds(ids, mask, self._position(ids, mask, pooling, self.end_id if end_id is None else end_id))

    def _position(self, ids: Tensor, mask: Tensor, pooling: Pooling, end_id: int | None) -> Int[Tensor, "Q"]:
        fixed = {"first": 0, "last": ids.shape[1] - 1, "appended": ids.shape[1], "mean": -1}
        if pooling in fixed:
            return torch.full((len(ids),), fixed[pooling], dtype=torch.long)
        if end_id is None:
            raise NotSupported(f"the text tower reads the end token, but {type(self).__name__} has none")
        is_end = ids == end_id
        if not bool(is_end.any(dim=1).all()):
            raise NotSupported(f"the text tower reads the token {end_id}, which the tokenizer does not put at the end")
        position = is_end.int().argmax(dim=1)
        if pooling == "argmax" and not torch.equal(position, ids.argmax(dim=1)):
            raise NotSupported(
                f"the text tower reads the token with the largest id, but the end token ({end_id}) is not the largest "
                "one here: this tokenizer does not belong to this model"
            )
        return position


def clean_whitespace(text: str) -> str:
    """A text with its encoding mended, HTML entities read and white space collapsed, as open_clip cleans by default."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


class OpenClipTokenizer(Tokenizer):
    """open_clip's byte-pair tokenizer of the original CLIP models."""

    def __init__(self, simple: Any, context_length: int) -> None:
        super().__init__(context_length, simple.eot_token_id)
        self.simple = simple

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        length = self.context_length
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        cut = []
        for i, text in enumerate(texts):
            tokens = self.simple.encode(text)
            if len(tokens) > length - 2:
                tokens = tokens[: length - 2]
                cut.append(i)
            tokens = [self.simple.sot_token_id, *tokens, self.simple.eot_token_id]
            ids[i, : len(tokens)] = torch.tensor(tokens)
            mask[i, : len(tokens)] = True
        return ids, mask, cut


class FileTokenizer(Tokenizer):
    """A `tokenizer.json` read by the `tokenizers` package, padded and cleaned as open_clip does for such folders.

    Args:
        folder: holds `tokenizer.json`, and `tokenizer_config.json` for the padding and end tokens.
        context_length: L.
        clean: text -> text before tokenising.
        strip_separator: replace the separator by 0 after tokenising (an option of open_clip's configs).

    Raises:
        CheckpointError: a missing or damaged file.
    """

    FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

    def __init__(
        self, folder: Path, context_length: int, *, clean: Callable[[str], str], strip_separator: bool = False
    ) -> None:
        import tokenizers

        path = folder / "tokenizer.json"
        try:
            self._text = path.read_text(encoding="utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(self._text)
        except Exception as error:  # tokenizers raises plain Exception for a malformed file
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._files = {name: (folder / name).read_bytes() for name in self.FILES if (folder / name).is_file()}
        special = parse_json(self._files.get("tokenizer_config.json", b"{}"))
        self._clean = clean
        pad = _token(special.get("pad_token")) or "[PAD]"
        pad_id = self._tokenizer.token_to_id(pad)
        if pad_id is None:
            raise CheckpointError(f"{path} has no padding token {pad!r}")
        self.pad_id = pad_id
        end = next((t for k in ("eos_token", "sep_token") if (t := _token(special.get(k)))), None)
        separator = _token(special.get("sep_token"))
        self._separator = self._tokenizer.token_to_id(separator) if strip_separator and separator else None
        super().__init__(context_length, None if end is None else self._tokenizer.token_to_id(end))
        self._tokenizer.enable_truncation(context_length)
        self._tokenizer.enable_padding(length=context_length, pad_id=pad_id, pad_token=pad)

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        encodings = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        ids = torch.tensor([row.ids for row in encodings], dtype=torch.long)
        mask = torch.tensor([row.attention_mask for row in encodings], dtype=torch.bool)
        if self._separator is not None:
            ids[ids.eq(self._separator)] = 0
        return ids, mask, [i for i, row in enumerate(encodings) if row.overflowing]

    def save(self, folder: Path) -> None:
        for name, content in self._files.items():
            write_whole(folder / name, content)

    def signature(self) -> str:
        digest = hashlib.sha256(self._text.encode()).hexdigest()
        return f"{super().signature()}:{self.pad_id}:{self._separator}:{digest}"


class TransformersTokenizer(Tokenizer):
    """A tokenizer of `transformers`, alone or inside open_clip's `HFTokenizer`.

    Args:
        tokenizer: the `transformers` tokenizer.
        context_length: L; texts are padded to it.
        wrapper: open_clip's `HFTokenizer` around it, whose own call then makes the ids.
    """

    def __init__(self, tokenizer: Any, context_length: int, wrapper: Any = None) -> None:
        end = tokenizer.eos_token_id
        super().__init__(context_length, tokenizer.sep_token_id if end is None else end)
        self.tokenizer, self.wrapper = tokenizer, wrapper

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        clean = [self.wrapper.clean_fn(text) for text in texts] if self.wrapper is not None else list(texts)
        options: dict[str, Any] = {"max_length": self.context_length, "padding": "max_length", "truncation": True}
        encoded = self.tokenizer(clean, return_tensors="pt", return_attention_mask=True, **options)
        ids, mask = encoded.input_ids, encoded.attention_mask.bool()
        full = [i for i, row in enumerate(mask.all(dim=1).tolist()) if row]
        lengths = self.tokenizer([clean[i] for i in full], verbose=False).input_ids if full else []
        cut = [i for i, row in zip(full, lengths, strict=True) if len(row) > self.context_length]
        if self.wrapper is not None:
            ids = self.wrapper(list(texts), self.context_length)
        return ids, mask, cut

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def signature(self) -> str:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            text = json.dumps(self.tokenizer.get_vocab(), sort_keys=True)
        else:
            # Padding and truncation are switches that each call sets anew; they say nothing about the tokenizer.
            state = json.loads(backend.to_str())
            text = json.dumps({k: v for k, v in state.items() if k not in ("padding", "truncation")}, sort_keys=True)
        return f"{super().signature()}:{hashlib.sha256(text.encode()).hexdigest()}"


class FunctionTokenizer(Tokenizer):
    """A function of the user's own as a tokenizer; which of its ids are padding is not known, so none is taken for it.

    Args:
        function: texts -> (Q, L) integer ids.
        context_length: L, 0 where the function pads each batch in its own way.
    """

    # Sentences whose ids tell two functions apart.
    PROBES = ("a photo of a cat", "The quick brown fox jumps over the lazy dog.", "0123456789, (naïve)!")

    def __init__(self, function: Callable[[list[str]], Any], context_length: int = 0) -> None:
        super().__init__(context_length, None)
        self.function = function

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        ids = self.function(list(texts))
        if not isinstance(ids, Tensor) or ids.ndim != 2 or len(ids) != len(texts) or ids.is_floating_point():
            shape = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise UsageError(
                f"the tokenizer must give integer ids of shape (texts, length), here ({len(texts)}, L), not {shape}"
            )
        return ids.long(), torch.ones_like(ids, dtype=torch.bool), []

    def signature(self) -> str:
        # Each sentence by itself, as a function may pad a batch to its longest.
        rows = [self.encode([text])[0].tolist() for text in self.PROBES]
        return f"{super().signature()}:{hashlib.sha256(json.dumps(rows).encode()).hexdigest()}"


class MissingTokenizer(Tokenizer):
    """Stands where the tokenizer is not on this machine: images still work, texts say what is missing."""

    def __init__(self, context_length: int, reason: str) -> None:
        super().__init__(context_length, None)
        self.reason = reason

    def encode(self, texts: Sequence[str]) -> tuple[Int[Tensor, "Q L"], Bool[Tensor, "Q L"], list[int]]:
        raise NotSupported(self.reason)


def _token(value: Any) -> str | None:
    """The text of a special token, which `tokenizer_config.json` writes as a string or as an object."""
    return value.get("content") if isinstance(value, dict) else value
