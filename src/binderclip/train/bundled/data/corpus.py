"""What the text tower of `small` is distilled on, and the WordPiece vocabulary cut from it.

Captions of the training splits (raw and in templates), pairs of them as scene phrases, ImageNet's class names,
WordNet's lemmas and short glosses. No caption is taken from a validation, test or shift split.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from binderclip.errors import DataError
from binderclip.train.bundled.teachers import imagenet_names

__all__ = ["TEMPLATES", "Corpus", "build_corpus", "build_tokenizer", "wordnet_texts"]

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of {}",
    "a picture of a {}",
    "an image of a {}",
    "an icon of a {}",
    "icon of {}",
    "clip art of a {}",
    "a drawing of a {}",
    "an illustration of {}",
    "a silhouette of a {}",
    "an emoji of {}",
    "a cartoon {}",
    "a sketch of a {}",
    "a painting of a {}",
    "a {}",
    "the {}",
    "a small {}",
    "a large {}",
    "a red {}",
    "a blue {}",
    "a green {}",
    "a yellow {}",
    "a black {}",
    "a white {}",
    "{} on a white background",
    "a close-up of a {}",
    "a blurry photo of a {}",
)
PAIRS: tuple[str, ...] = (
    "{} and {}",
    "a {} and a {}",
    "{} next to {}",
    "{} above {}",
    "{} left of {}",
    "{}, {}",
    "a picture of {} with {}",
)
SPECIAL = ("[PAD]", "[UNK]", "[SOT]")
END = "[EOT]"


@dataclass(frozen=True)
class Corpus:
    """Texts to distil on; `captions` is how many of the first ones are raw captions, which are seen more often."""

    texts: tuple[str, ...]
    captions: int

    @property
    def digest(self) -> str:
        """Hash of the texts in their order."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]


def pack_captions(packs: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Captions, and further names (keywords, aliases), of the training splits of the Parquet packs in a folder."""
    captions: dict[str, None] = {}
    others: dict[str, None] = {}
    for name in names:
        table = pq.read_table(packs / f"{name}-64.parquet")
        columns = [
            column
            for column in ("caption", "name", "title", "keywords", "aliases", "split")
            if column in table.column_names
        ]
        for row in table.select(columns).to_pylist():
            if row["split"] != "train":
                continue
            captions[row["caption"]] = None
            words = [row.get("name"), row.get("title"), *(row.get("keywords") or ()), *(row.get("aliases") or ())]
            others.update((word, None) for word in words if word and 2 < len(word) < 60)
    return list(captions), [word for word in others if word not in captions]


LOCATIONS = "15"  # WordNet's lexicographer file of places, whose proper names are wanted; others are left out


def wordnet_texts(folder: Path, *, words: int = 12) -> tuple[list[str], list[str]]:
    """Every word of WordNet's synsets (at most two words long; of proper names only places), and short glosses.

    Args:
        folder: holds `data.noun`, `data.adj`, `data.verb`.
        words: the longest gloss.
    """
    lemmas: dict[str, None] = {}
    glosses: dict[str, None] = {}
    for part in ("noun", "adj", "verb"):
        path = folder / f"data.{part}"
        if not path.exists():
            raise DataError(f"WordNet: no {path}")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            for place in range(int(fields[3], 16)):
                word = re.sub(r"\(\w+\)$", "", fields[4 + 2 * place]).replace("_", " ")
                proper = word != word.lower() and not (part == "noun" and fields[1] == LOCATIONS)
                if not proper and word.count(" ") < 2 and re.fullmatch(r"[A-Za-z' -]{3,40}", word):
                    lemmas[word.lower()] = None
            text = gloss.split(";")[0].split('"')[0].strip()
            if part == "noun" and 3 <= len(text.split()) <= words:
                glosses[text] = None
    return list(lemmas), list(glosses)


def build_corpus(
    packs: Path,
    wordnet: Path,
    *,
    names: Sequence[str] = ("openclipart", "noto-emoji", "icons"),
    templated: int = 3,
    pairs: int = 12_000,
    lemmas: int = 90_000,
    glosses: int = 25_000,
    seed: int = 0,
) -> Corpus:
    """The texts, without repeats, raw captions first; a function of its arguments and the files alone.

    Args:
        packs: folder of the Parquet packs. wordnet: folder of WordNet's `data.*` files.
        names: packs to read. templated: templates drawn for each caption and class name.
        pairs: phrases of two captions. lemmas, glosses: how many of WordNet's to draw at most.
        seed: seed of the draws.
    """
    chance = random.Random(seed)
    captions, others = pack_captions(packs, names)
    texts: dict[str, None] = dict.fromkeys(captions)
    classes = [name for group in imagenet_names() for name in group[:2]]
    texts.update(dict.fromkeys([*others, *classes]))
    for caption in [*captions, *classes]:
        for template in chance.sample(TEMPLATES, templated):
            texts[template.format(caption)] = None
    short = [caption for caption in captions if len(caption.split()) <= 3]
    for _ in range(pairs):
        texts[chance.choice(PAIRS).format(*chance.sample(short, 2))] = None
    words, definitions = wordnet_texts(wordnet)
    texts.update(dict.fromkeys(chance.sample(words, min(lemmas, len(words)))))
    texts.update(dict.fromkeys(chance.sample(definitions, min(glosses, len(definitions)))))
    return Corpus(tuple(texts), len(captions))


def build_tokenizer(corpus: Corpus, *, size: int = 8000, context: int = 16) -> Tokenizer:
    """A lower-casing WordPiece tokenizer of `size` pieces: [SOT] text [EOT] [PAD]..., at most `context` ids.

    [EOT] is the highest id, so that open_clip's default pooling (the position of the highest id) finds it.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    draft = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    draft.normalizer = normalizer
    draft.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size - 1, special_tokens=list(SPECIAL), continuing_subword_prefix="##", show_progress=False
    )
    weighted = [*corpus.texts[: corpus.captions], *corpus.texts[: corpus.captions], *corpus.texts]
    draft.train_from_iterator(weighted, trainer)
    vocabulary = draft.get_vocab()
    vocabulary[END] = len(vocabulary)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([*SPECIAL, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[SOT] $A {END}", special_tokens=[("[SOT]", 2), (END, vocabulary[END])]
    )
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=context)
    return tokenizer
