"""Networks that are in memory: of open_clip, of transformers, and of the user's own."""

from __future__ import annotations

import math
from pathlib import Path

import lancedb as lancedb  # two seconds that SearchIndex would spend inside a test
import numpy as np
import open_clip
import pytest
import torch
from torch import nn

import binderclip
from binderclip.adapt import LinearProbe, TipAdapter
from binderclip.data import ImageTextDataset
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.evaluate import evaluate_model
from binderclip.explain import AttentionRollout, IntegratedGradients, Saliency
from binderclip.models import Preprocess
from binderclip.robust import PGD
from binderclip.search import SearchIndex
from binderclip.segment import Segmenter

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
TEXTS = ["a photo of a cat", "two red cars in the rain"]


def open_clip_model(**text) -> nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(embed_dim=24, vision_cfg=VISION, text_cfg={**TEXT, **text})


def transform(**options):
    return open_clip.image_transform(32, is_train=False, **options)


class Own(nn.Module):
    """A network of somebody who knows neither library."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.visual = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.project, self.words = nn.Linear(6, 12), nn.EmbeddingBag(128, width)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        with torch.no_grad():
            for parameter in [*self.visual.parameters(), *self.project.parameters(), *self.words.parameters()]:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.project(self.visual(pixels))

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids)


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[ord(letter) % 128 for letter in text.ljust(24)[:24]] for text in texts])


STEPS = Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def own(**options) -> binderclip.models.ImageTextModel:
    return binderclip.from_module(Own(), **{"preprocess": STEPS, "tokenizer": letters, **options})


# -- open_clip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"resize_mode": "squash", "interpolation": "bilinear"}, {"resize_mode": "longest", "fill_color": 7}],
)
def test_open_clip_gives_its_own_features(options, pictures) -> None:
    module, steps = open_clip_model(), transform(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), **options)
    model = binderclip.from_module(module, preprocess=steps)
    assert model.backbone is module
    assert not module.training
    with torch.no_grad():
        image = module.encode_image(torch.stack([steps(picture) for picture in pictures]))
        text = module.encode_text(open_clip.SimpleTokenizer(context_length=16)(TEXTS))
        assert torch.allclose(model.encode_image(pictures), image, atol=1e-5)
        assert torch.allclose(model.encode_text(TEXTS), text, atol=1e-5)
    assert model.image_tower.depth == 1


def test_open_clip_pictures_that_are_not_square(pictures) -> None:
    torch.manual_seed(0)
    module = open_clip.CLIP(embed_dim=24, vision_cfg={**VISION, "image_size": (32, 48)}, text_cfg=TEXT)
    steps = open_clip.image_transform((32, 48), is_train=False)
    model = binderclip.from_module(module, preprocess=steps)
    with torch.no_grad():
        image = module.encode_image(torch.stack([steps(picture) for picture in pictures]))
        assert torch.allclose(model.encode_image(pictures), image, atol=1e-5)


def test_open_clip_says_its_own_preprocessing() -> None:
    module = open_clip_model()
    stated = {"size": 32, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "resize_mode": "squash"}
    open_clip.set_model_preprocess_cfg(module, stated)
    model = binderclip.from_module(module, name="mine")
    assert model.name == "mine"
    steps = model.preprocess
    assert (steps.size, steps.mean, steps.std, steps.resize_mode) == ((32, 32), *list(stated.values())[1:])
    assert model.tokenizer.context_length == 16


def test_weights_are_shared_with_the_module() -> None:
    module = open_clip_model()
    model = binderclip.from_module(module, preprocess=transform())
    before = model.encode_text("a cat").detach()
    with torch.no_grad():
        module.text_projection.mul_(2)
    assert torch.allclose(model.encode_text("a cat"), 2 * before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokenizer", [open_clip.get_tokenizer("ViT-B-32"), "ViT-B-32"])
def test_a_tokenizer_is_given_the_length_of_the_text_tower(tokenizer) -> None:
    model = binderclip.from_module(open_clip_model(), preprocess=transform(), tokenizer=tokenizer)
    expected = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    assert torch.equal(model.tokenize(TEXTS).ids, expected)


def test_what_open_clip_does_not_say_is_asked_for() -> None:
    with pytest.raises(UsageError, match="preprocess=, the transform that"):
        binderclip.from_module(open_clip_model())
    with pytest.raises(UsageError, match="give tokenizer=, the name of its architecture"):
        binderclip.from_module(open_clip_model(vocab_size=50), preprocess=transform())
    with pytest.raises(UsageError, match="gives 48 x 48 pixels, and CLIP takes 32 x 32"):
        binderclip.from_module(open_clip_model(), preprocess=Preprocess(size=(48, 48)))
    with pytest.raises(NotSupported, match=r"RandomResizedCrop.*for inference"):
        binderclip.from_module(open_clip_model(), preprocess=open_clip.image_transform(32, is_train=True))
    with pytest.raises(UsageError, match="'ViT-no-such' is neither a folder nor an architecture"):
        binderclip.from_module(open_clip_model(), preprocess=transform(), tokenizer="ViT-no-such")
    with pytest.raises(UsageError, match="processor of transformers, not"):
        binderclip.from_module(open_clip_model(), preprocess=lambda picture: picture)


def test_a_transform_with_a_step_that_may_change_values_is_refused() -> None:
    from torchvision import transforms as steps

    plain = [steps.Resize(32), steps.CenterCrop(32), steps.ToTensor(), steps.Normalize((0.5,) * 3, (0.5,) * 3)]
    assert binderclip.from_module(open_clip_model(), preprocess=steps.Compose(plain)).preprocess.mean == (0.5,) * 3
    for index, step in ((3, steps.Lambda(lambda x: 1 - x)), (3, lambda x: x / 2), (4, plain[3]), (0, plain[0])):
        other = steps.Compose([*plain[:index], step, *plain[index:]])
        with pytest.raises(NotSupported, match="preprocess of the steps"):
            binderclip.from_module(open_clip_model(), preprocess=other)


def test_saving_says_how_to_keep_the_weights(tmp_path) -> None:
    model = binderclip.from_module(open_clip_model(), preprocess=transform())
    with pytest.raises(NotSupported, match="open_clip:ARCHITECTURE/FILE"):
        model.save(tmp_path / "folder")


# -- transformers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_gives_its_own_features(kind, request, pictures, tmp_path) -> None:
    import transformers

    folder = request.getfixturevalue(f"hf_{kind}_folder")
    module = transformers.AutoModel.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = binderclip.from_module(module, preprocess=images, tokenizer=words)
    assert model.backbone is module
    inputs = words(["a photo of a cat", "the dog"], padding="max_length", max_length=12, return_tensors="pt")
    if kind == "siglip":
        inputs.pop("attention_mask")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        text = module.get_text_features(**inputs)
        assert torch.allclose(model.encode_text(["a photo of a cat", "the dog"]), getattr(text, "pooler_output", text))
        pixels = images(pictures, return_tensors="pt")["pixel_values"]
        assert torch.allclose(model.preprocess(pictures), pixels, atol=0.05)  # it resizes in torch, we in PIL
        image = module.get_image_features(model.preprocess(pictures))
        assert torch.allclose(model.encode_image(pictures), getattr(image, "pooler_output", image), atol=1e-5)
    loaded = binderclip.load(f"hf:{folder}")
    assert model.preprocess == loaded.preprocess
    assert torch.equal(model.encode_image(pictures), loaded.encode_image(pictures))
    assert binderclip.load(model.save(tmp_path / "saved")).fingerprint == loaded.fingerprint


def test_a_processor_brings_its_tokenizer(hf_clip_folder) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPProcessor

    images, words = AutoImageProcessor.from_pretrained(hf_clip_folder), AutoTokenizer.from_pretrained(hf_clip_folder)
    processor = CLIPProcessor(image_processor=images, tokenizer=words)
    module = CLIPModel.from_pretrained(hf_clip_folder)
    model = binderclip.from_module(module, preprocess=processor)
    loaded = binderclip.load(f"hf:{hf_clip_folder}")
    assert torch.equal(model.encode_text("a red apple"), loaded.encode_text("a red apple"))
    with pytest.raises(UsageError, match="CLIPModel needs preprocess= and tokenizer=: its processor brings both"):
        binderclip.from_module(module)
    with pytest.raises(UsageError, match="CLIPModel needs tokenizer=:"):
        binderclip.from_module(module, preprocess=images)
    with pytest.raises(NotSupported, match="none of the image-text models known here: CLIPModel"):
        binderclip.from_module(module.vision_model, preprocess=processor)


# -- the user's own ------------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_gives_its_own_features(pictures) -> None:
    module = Own()
    model = binderclip.from_module(module, preprocess=STEPS, tokenizer=letters)
    assert model.embed_dim == 12
    eight_bit = np.stack([STEPS.pixels(picture) for picture in pictures])
    pixels = (torch.from_numpy(eight_bit).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        assert torch.allclose(model.encode_image(pictures), module.encode_image(pixels), atol=1e-5)
        assert torch.equal(model.encode_text(TEXTS), module.encode_text(letters(TEXTS)))
        image, text = module.encode_image(pixels), module.encode_text(letters(TEXTS))
    cosines = nn.functional.normalize(image) @ nn.functional.normalize(text).T
    found = model.classify(pictures, TEXTS)
    assert torch.allclose(found.probs, (20 * cosines).softmax(dim=1), atol=1e-5)


def test_gradients_reach_the_pixels_of_a_network_of_ones_own() -> None:
    pixels = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    own().predictor(TEXTS)(pixels)[0, 0].backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_the_inside_of_a_network_of_ones_own_is_refused(tmp_path) -> None:
    model = own()
    for use in (
        lambda: model.image_tower,
        lambda: model.dense_tower,
        lambda: model.text_tower,
        lambda: model.save(tmp_path / "folder"),
    ):
        with pytest.raises(NotSupported, match="a module Own"):
            use()
    assert not (tmp_path / "folder").exists()


def test_a_network_without_a_scale_encodes_and_asks_for_it_where_it_is_needed() -> None:
    module = Own()
    del module.logit_scale
    model = binderclip.from_module(module, preprocess=STEPS, tokenizer=letters)
    assert model.encode_text(TEXTS).shape == (2, 12)
    with pytest.raises(NotSupported, match=r"Own has no logit_scale.*math\.log"):
        model.text_bank(TEXTS)


def test_fingerprints_differ_where_a_tokenizer_differs() -> None:
    other = own(tokenizer=lambda texts: letters([text.upper() for text in texts]))
    assert own().fingerprint == own().fingerprint != other.fingerprint


class Logits(nn.Linear):
    """No image-text model."""


def test_what_cannot_be_wrapped_is_refused_in_words() -> None:
    def wrap(module: object, preprocess: object = STEPS, tokenizer: object = letters):
        return binderclip.from_module(module, preprocess=preprocess, tokenizer=tokenizer)

    with pytest.raises(UsageError, match="a module Own needs preprocess="):
        wrap(Own(), preprocess=None)
    with pytest.raises(UsageError, match="a module Own needs preprocess="):
        wrap(Own(), tokenizer=None)
    with pytest.raises(UsageError, match="12 numbers for pictures and of 8 for texts"):
        wrap(Own(width=8))
    with pytest.raises(UsageError, match="encode_image failed on a picture of 2 x 2: RuntimeError"):
        wrap(Own(), preprocess=Preprocess(size=(2, 2)))
    with pytest.raises(UsageError, match=r"integer ids of shape \(texts, length\), here \(1, L\), not list"):
        wrap(Own(), tokenizer=lambda texts: [[1]])
    with pytest.raises(UsageError, match="Logits has no encode_image"):
        wrap(Logits(2, 2))
    with pytest.raises(UsageError, match=r"is a wrapper: give the module inside it, module\.module"):
        wrap(nn.DataParallel(Own()))
    with pytest.raises(UsageError, match="already"):
        wrap(own())
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module, not 'small'; `load` opens names"):
        wrap("small")
    module = Own()
    module.logit_scale = None
    module.logit_bias = 3.0
    with pytest.raises(UsageError, match="logit_bias must be a tensor of one number"):
        wrap(module)
    broken = Own()
    with torch.no_grad():
        broken.project.bias[0] = float("nan")
    with pytest.raises(CheckpointError):
        wrap(broken)


# -- what works with which -----------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-own-model.md"


def job(row: str, model: binderclip.models.ImageTextModel, folder: Path) -> None:
    """What a row of the guide's table names, once."""
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    words = ["a cat", "a dog"]
    if row.startswith("features"):
        assert model.encode_image(images).shape == (4, model.embed_dim)
        SearchIndex(folder / "index", model)
    elif row.startswith("zero-shot"):
        assert len(model.classify(images, words).probs) == 4
        picture = images[0].mul(255).byte().permute(1, 2, 0).numpy()
        pairs = evaluate_model(model, ImageTextDataset([picture, 255 - picture], words, ["one", "two"]))
        assert pairs.count == 2
    elif row.startswith("heads"):
        features = model.encode_image(images).detach()
        assert LinearProbe().fit(features, labels).predictor(model)(images).shape == (4, 2)
        TipAdapter(text_prior=model.text_bank(words)).fit(features, [words[i] for i in labels])
    elif row.startswith("attacks"):
        PGD(model.predictor(words), steps=1)(images, labels)
    elif row.startswith("attribution by pixels"):
        for method in (Saliency(), IntegratedGradients()):
            assert float(method(model, images[:1], "a cat").maps().abs().sum()) > 0
    elif row.startswith("attribution by attention"):
        AttentionRollout()(model, images[:1], "a cat")
    elif row.startswith("segmentation"):
        Segmenter(model)(images[0], words)
    elif row.startswith("adapters"):
        binderclip.models.lora_(model)
    else:
        assert row == "`model.save`"
        model.save(folder / "saved")


def table() -> list[tuple[str, str, str]]:
    """(row, kind, cell) of the guide's table."""
    rows = [line.strip("| ").split(" | ") for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
    header = [cell.strip() for cell in rows[0]]
    return [(row[0], kind, cell) for row in rows[2:] for kind, cell in zip(header[1:], row[1:], strict=True)]


@pytest.mark.parametrize(("row", "kind", "cell"), table())
def test_the_guide_s_table_is_true(row, kind, cell, request, tmp_path) -> None:
    if kind == "open_clip":
        model = binderclip.from_module(open_clip_model(), preprocess=transform())
    elif kind == "transformers":
        import transformers

        folder = request.getfixturevalue("hf_clip_folder")
        steps, words = (getattr(transformers, name) for name in ("AutoImageProcessor", "AutoTokenizer"))
        module = transformers.CLIPModel.from_pretrained(folder)
        model = binderclip.from_module(
            module, preprocess=steps.from_pretrained(folder), tokenizer=words.from_pretrained(folder)
        )
    else:
        assert kind == "your own"
        model = own()
    if cell == "refused":
        with pytest.raises(NotSupported):
            job(row, model, tmp_path)
    else:
        assert cell == "yes"
        job(row, model, tmp_path)
