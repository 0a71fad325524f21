"""The models inside the package, against open_clip reading the same folders."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from PIL import Image

from binderclip.models import load
from binderclip.models.files import registry

# Compact folders (8-bit weights) are ours alone to read; test_compact.py has them.
OPEN_CLIP = [
    name
    for name, folder in registry.bundled_folders().items()
    if "binderclip" not in json.loads((folder / registry.CONFIG).read_text())
]
TEXTS = ["a photo of a cat", "red apple", "heart", "an icon of a very unusual zeppelin"]


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip_reads_the_same_model(name: str, pictures: list[Image.Image]) -> None:
    model = load(name)
    source = f"local-dir:{registry.bundled_folders()[name]}"
    theirs, _, transform = open_clip.create_model_and_transforms(source)
    theirs.eval()
    with torch.no_grad():
        images = theirs.encode_image(torch.stack([transform(image) for image in pictures]))
        texts = theirs.encode_text(open_clip.get_tokenizer(source)(TEXTS))
    assert torch.cosine_similarity(model.encode_image(pictures), images).min() > 1 - 1e-6
    torch.testing.assert_close(model.encode_image(pictures), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_text(TEXTS), texts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(registry.bundled_folders()))
def test_cards_say_what_the_command_line_prints(name: str) -> None:
    card = registry.bundled_cards()[name]
    assert card["summary"]
    assert card["parameters"] > 1e6
    assert 0 < card["megabytes"] <= 20


def test_small_knows_a_heart_from_a_house() -> None:
    """Drawn here, so nobody trained on it; a guess would be right one time in four."""
    from PIL import ImageDraw

    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 25, 68, 73), fill="red")
    draw.ellipse((60, 25, 108, 73), fill="red")
    draw.polygon([(23, 60), (105, 60), (64, 115)], fill="red")
    found = load("small").classify(image, ["heart", "house", "car", "tree"])
    assert found.best == ["heart"]
