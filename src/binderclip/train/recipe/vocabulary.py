"""A WordPiece vocabulary of one's own, learned from captions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from binderclip.errors import DataError
from binderclip.files import make_folder, write_whole

__all__ = ["END_ID", "PAD_ID", "train_vocabulary"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
PAD_ID, END_ID = 0, 3


def train_vocabulary(captions: Iterable[str], folder: str | Path, *, size: int = 4096) -> int:
    """Learn a lower-case WordPiece vocabulary and write it as open_clip and transformers read it.

    Args:
        captions: texts; each distinct one counts once, so that a caption shared by many pictures does not crowd out
            rare words.
        folder: gets `tokenizer.json` and `tokenizer_config.json`.
        size: pieces at most, the four special ones included.

    Returns:
        The number of pieces.

    Raises:
        DataError: no captions.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    texts = sorted(set(captions))
    if not any(text.strip() for text in texts):
        raise DataError("a vocabulary needs captions, and the training data has none")
    own = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=True)
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.decoder = decoders.WordPiece()
    # The trainer numbers letters in the order of a randomised hash table, and ties between merges follow the numbers.
    # Handing the letters over in a fixed order makes the vocabulary a function of the captions.
    fixed = [*_SPECIAL, *_letters(own, texts)]
    trainer = trainers.WordPieceTrainer(vocab_size=max(size, len(fixed)), special_tokens=fixed, show_progress=False)
    own.train_from_iterator(texts, trainer=trainer)
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", END_ID)],
    )
    folder = make_folder(folder)
    document = json.loads(own.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in _SPECIAL]
    write_whole(folder / "tokenizer.json", json.dumps(document, ensure_ascii=False))
    names = {f"{key}_token": token for key, token in zip(("pad", "unk", "cls", "sep"), _SPECIAL, strict=True)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, **names}
    write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    return len(document["model"]["vocab"])


def _letters(own: Any, texts: Sequence[str]) -> list[str]:
    """Every letter of the texts as a first piece of a word and as a later one."""
    words = {
        word for text in texts for word, _ in own.pre_tokenizer.pre_tokenize_str(own.normalizer.normalize_str(text))
    }
    return sorted({word[0] for word in words}) + sorted({f"##{letter}" for word in words for letter in word[1:]})
