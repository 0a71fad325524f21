"""Tokenizers against open_clip's and transformers' own, and the pooling position against what the towers read."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models.text.tokenize import FileTokenizer, MissingTokenizer, OpenClipTokenizer, TransformersTokenizer

TEXTS = ["a photo of a cat", "Dogs &amp; cats", "  the   red apple.", "", "! ! !", "naïve café"]
LONG = "a red apple in the tree , " * 8


@pytest.fixture
def byte_pair() -> OpenClipTokenizer:
    return OpenClipTokenizer(SimpleTokenizer(context_length=12), 12)


@pytest.fixture
def file_tokenizer(wordpiece: Path) -> FileTokenizer:
    return FileTokenizer(wordpiece, 12, clean=get_clean_fn("whitespace"))


def test_byte_pair_ids_are_open_clips(byte_pair: OpenClipTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = byte_pair([*TEXTS, LONG], "argmax")
    want = open_clip.tokenize([*TEXTS, LONG], context_length=12)
    assert torch.equal(tokens.ids, want)
    # Where open_clip's towers read: the largest id. "!" has id 0, as padding has, so the mask is not ids != 0.
    assert torch.equal(tokens.position, want.argmax(dim=1))
    assert torch.equal(tokens.mask.sum(dim=1), tokens.position + 1)


def test_file_tokenizer_is_open_clips_hf_tokenizer(file_tokenizer: FileTokenizer, wordpiece: Path) -> None:
    theirs = HFTokenizer(str(wordpiece), context_length=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = file_tokenizer([*TEXTS, LONG], "eos")
    assert torch.equal(tokens.ids, theirs([*TEXTS, LONG]))
    assert torch.equal(tokens.ids[torch.arange(7), tokens.position], torch.full((7,), 3))
    assert torch.equal(tokens.mask, tokens.ids != 0)


def test_cleaning_and_separator_options_follow_open_clip(wordpiece: Path) -> None:
    ours = FileTokenizer(wordpiece, 12, clean=get_clean_fn("canonicalize"), strip_separator=True)
    theirs = HFTokenizer(str(wordpiece), context_length=12, clean="canonicalize", strip_sep_token=True)
    assert torch.equal(ours(TEXTS, "first").ids, theirs(TEXTS))


def test_transformers_tokenizer_gives_the_same(wordpiece: Path, file_tokenizer: FileTokenizer) -> None:
    from transformers import AutoTokenizer

    plain = TransformersTokenizer(AutoTokenizer.from_pretrained(wordpiece), 12)
    texts = ["a photo of a cat", "the red apple"]
    assert torch.equal(plain(texts, "eos").ids, file_tokenizer(texts, "eos").ids)
    assert torch.equal(plain(texts, "eos").mask, file_tokenizer(texts, "eos").mask)


@pytest.mark.parametrize("kind", ["byte_pair", "file", "transformers"])
def test_long_texts_keep_the_end_token_and_warn_once(
    kind: str, byte_pair: OpenClipTokenizer, file_tokenizer: FileTokenizer, wordpiece: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = {
        "byte_pair": byte_pair,
        "file": file_tokenizer,
        "transformers": TransformersTokenizer(AutoTokenizer.from_pretrained(wordpiece), 12),
    }[kind]
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 12 tokens"):
        tokens = tokenizer(["a cat", LONG], "argmax" if kind == "byte_pair" else "eos")
    assert tokens.position[1] == 11
    assert tokens.ids[1, 11] == tokenizer.end_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer([LONG], "argmax" if kind == "byte_pair" else "eos")


def test_a_text_that_just_fits_is_not_reported(file_tokenizer: FileTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = file_tokenizer(["a " * 10], "eos")
    assert tokens.mask.all()


@pytest.mark.parametrize(("pooling", "want"), [("first", 0), ("last", 11), ("appended", 12), ("mean", -1)])
def test_positions_that_do_not_depend_on_the_text(file_tokenizer: FileTokenizer, pooling, want: int) -> None:
    assert file_tokenizer(["a cat", "a"], pooling).position.tolist() == [want, want]


def test_a_tokenizer_of_another_model_is_noticed(file_tokenizer: FileTokenizer) -> None:
    with pytest.raises(NotSupported, match="largest id"):
        file_tokenizer(["a photo of a cat"], "argmax")
    with pytest.raises(NotSupported, match="49407"):
        file_tokenizer(["a cat"], "eos", 49407)


def test_bad_texts_and_files(byte_pair: OpenClipTokenizer, tmp_path: Path, wordpiece: Path) -> None:
    with pytest.raises(UsageError, match="empty"):
        byte_pair([], "argmax")
    with pytest.raises(UsageError, match="int"):
        byte_pair(["a", 3], "argmax")  # type: ignore[list-item]
    with pytest.raises(NotSupported, match="not here"):
        MissingTokenizer(12, "not here")(["a"], "argmax")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        FileTokenizer(tmp_path, 12, clean=str)
    shutil.copy(wordpiece / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    with pytest.raises(CheckpointError, match="<pad>"):
        FileTokenizer(tmp_path, 12, clean=str)


def test_saved_tokenizer_is_the_same(file_tokenizer: FileTokenizer, tmp_path: Path) -> None:
    file_tokenizer.save(tmp_path)
    again = FileTokenizer(tmp_path, 12, clean=get_clean_fn("whitespace"))
    assert torch.equal(again(TEXTS, "eos").ids, file_tokenizer(TEXTS, "eos").ids)
    assert again.signature() == file_tokenizer.signature()


def test_signatures_tell_tokenizers_apart(
    byte_pair: OpenClipTokenizer, file_tokenizer: FileTokenizer, wordpiece
) -> None:
    longer = FileTokenizer(wordpiece, 16, clean=str)
    assert len({byte_pair.signature(), file_tokenizer.signature(), longer.signature()}) == 3
