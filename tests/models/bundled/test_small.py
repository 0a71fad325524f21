"""The bundled models: they open everywhere, keep to their size, beat the closed form, and see real photographs."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch

from binderclip import data
from binderclip.evaluate import evaluate_model
from binderclip.models import ImageTextModel, load
from binderclip.models.files.registry import BUNDLED, bundled_cards

FOLDER = BUNDLED / "small"
LABELS = ["cat", "dog", "coffee", "house", "motorcycle", "tree", "guitar", "pizza", "rocket", "fish"]
# Text to image R@10 of a ridge map from pooled features to a sentence encoder, measured before anything was trained.
CLOSED_FORM = {"openclipart": 0.406, "noto-emoji": 0.626}


@pytest.fixture(scope="module")
def small() -> ImageTextModel:
    return load("small")


def test_sizes_and_notices() -> None:
    limits = {"everyday": 1.2, "small": 20.0, "small-b": 8.0}  # everyday takes its towers and classifier from others
    cards = bundled_cards()
    assert set(cards) >= {"small"}
    for name in cards:
        assert cards[name]["megabytes"] <= limits[name]
        assert cards[name]["summary"]
    assert "Apache" in (BUNDLED / "NOTICE.txt").read_text()
    assert "Apache License" in (BUNDLED / "EFFICIENTNET-LITE-LICENSE.txt").read_text()


def test_open_clip_opens_the_folder_and_agrees(small: ImageTextModel) -> None:
    pytest.importorskip("transformers")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    pictures = data.load_data("noto-emoji", "val").subset(range(4))
    images = [pictures[i].image for i in range(4)]
    texts = ["a cat", "Flag of Peru!", "a photo of a very old house on a hill above the sea, at night, in the rain"]
    with torch.no_grad():
        image = model.eval().encode_image(torch.stack([preprocess(image) for image in images]))
        text = model.encode_text(tokenizer(texts))
    assert torch.nn.functional.cosine_similarity(image, small.encode_image(images)).min() > 0.9999
    assert torch.allclose(text, small.encode_text(texts), atol=1e-5)


def test_forward_is_deterministic_and_does_not_mix_a_batch(small: ImageTextModel) -> None:
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    first, again = small.encode_image(images), small.encode_image(images)
    assert torch.equal(first, again)
    assert torch.allclose(first[:1], small.encode_image(images[:1]), atol=1e-4)


@pytest.mark.parametrize("pack", sorted(CLOSED_FORM))
def test_retrieval_beats_the_closed_form_on_held_out_pictures(small: ImageTextModel, pack: str) -> None:
    figures = evaluate_model(small, data.load_data(pack, "val")).figures
    assert figures["text_to_image/R@10"] > CLOSED_FORM[pack]


@pytest.mark.parametrize(("picture", "label"), [("a cup of coffee", "coffee"), ("tabby cat", "cat")])
def test_photographs_are_recognised(small: ImageTextModel, picture: str, label: str) -> None:
    pytest.importorskip("skimage")
    photographs = data.load_data("photographs")
    index = next(i for i, caption in enumerate(photographs.captions) if picture in caption)
    found = small.classify([photographs[index].image], LABELS, templates="photo")
    assert LABELS[int(found.probs.argmax())] == label


def test_texts_survive_the_tokenizer(small: ImageTextModel) -> None:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 8000
    for text in ["a photo of a dog", "flag of new zealand", "an armadillo", "washing machine"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    tokens = small.tokenize(["a cat", "CAT", "x " * 40])
    end = tokenizer.token_to_id("[EOT]")
    assert end == 7999, "open_clip's default pooling looks for the highest id"
    assert (tokens.ids[torch.arange(3), tokens.position] == end).all()
    assert int(tokens.position[2]) == 15


def test_second_scorer_shares_the_texts_and_sees_for_itself(small: ImageTextModel) -> None:
    other = load("small-b")
    texts = ["a cat", "the moon"]
    assert torch.equal(other.encode_text(texts), small.encode_text(texts))
    pack = data.load_data("noto-emoji", "val").subset(range(120))
    images = [pack[i].image for i in range(len(pack))]
    mine = torch.nn.functional.normalize(small.encode_image(images), dim=1)
    theirs = torch.nn.functional.normalize(other.encode_image(images), dim=1)
    similarity = (mine * theirs).sum(1).mean()
    assert 0.1 < similarity < 0.95, "a second opinion: related, and not the same"


def test_nothing_in_the_folders_needs_unpickling() -> None:
    assert [path.name for path in Path(BUNDLED).rglob("*") if path.suffix in {".pt", ".pth", ".bin", ".pkl"}] == []
