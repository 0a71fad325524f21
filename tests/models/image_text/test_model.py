"""ImageTextModel against each library's own forward, for every kind of backbone and every kind of input."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models import build, load
from binderclip.models.image_text.model import ImageTextModel

TEXTS = ["a photo of a cat", "the red dog", "a"]


@pytest.fixture
def clip(clip_folder: Path) -> ImageTextModel:
    return load(clip_folder)


@pytest.fixture
def siglip(siglip_folder: Path) -> ImageTextModel:
    return load(siglip_folder)


# -- parity with the libraries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["clip_folder", "siglip_folder"])
def test_parity_with_open_clip(which: str, request: pytest.FixtureRequest, pictures: list[Image.Image]) -> None:
    folder = request.getfixturevalue(which)
    model = load(folder)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    theirs.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    with torch.no_grad():
        images = theirs.encode_image(torch.stack([transform(image) for image in pictures]))
        texts = theirs.encode_text(tokens)
        logits, _ = theirs.get_logits(torch.stack([transform(image) for image in pictures]), tokens)
    torch.testing.assert_close(model.encode_image(pictures), images, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.encode_text(TEXTS), texts, rtol=1e-5, atol=1e-6)
    found = model.classify(pictures, TEXTS)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.probs, logits.sigmoid() if which == "siglip_folder" else logits.softmax(-1))


@pytest.mark.parametrize("which", ["hf_clip_folder", "hf_siglip_folder"])
def test_parity_with_transformers(which: str, request: pytest.FixtureRequest, pictures: list[Image.Image]) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = request.getfixturevalue(which)
    model = load(folder)
    theirs = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding="max_length", max_length=12, return_tensors="pt")
    if which == "hf_siglip_folder":
        tokens = {"input_ids": tokens["input_ids"]}
    pixels = model.preprocess(pictures)
    with torch.no_grad():
        want = theirs(pixel_values=pixels, **tokens)
    torch.testing.assert_close(model.encode_image(pictures, normalize=True), want.image_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.encode_text(TEXTS, normalize=True), want.text_embeds, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.classify(pictures, TEXTS).logits, want.logits_per_image, rtol=1e-4, atol=1e-4)
    assert model.embed_dim == want.image_embeds.shape[1]


def _timm(name: str) -> dict:
    vision = {"timm_model_name": name, "timm_pool": "avg", "image_size": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    return {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": text}


def _resnet() -> dict:
    config = _timm("")
    return config | {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32}}


def _coca() -> dict:
    config = _timm("")
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32, "attentional_pool": True}
    vision |= {"attn_pooler_heads": 2, "attn_pooler_queries": 4, "output_tokens": True}
    text = config["text_cfg"] | {"context_length": 11, "embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    return config | {"vision_cfg": vision, "text_cfg": text, "multimodal_cfg": decoder}


@pytest.mark.parametrize("config", [_timm("resnet10t"), _resnet(), _coca()], ids=["timm", "resnet", "coca"])
def test_other_towers_of_open_clip(config: dict, pictures: list[Image.Image], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(config)
    reference = copy.deepcopy(model.backbone)
    reference.visual.to(memory_format=torch.contiguous_format)
    tokens = open_clip.tokenize(TEXTS, context_length=config["text_cfg"]["context_length"])
    with torch.no_grad():
        images = reference.encode_image(model.preprocess(pictures).contiguous(), normalize=False)
        texts = reference.encode_text(tokens, normalize=False)
    torch.testing.assert_close(model.encode_image(pictures), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_text(TEXTS), texts, rtol=1e-5, atol=1e-6)
    again = load(model.save(tmp_path / "m"))
    torch.testing.assert_close(again.encode_image(pictures), model.encode_image(pictures), rtol=0, atol=0)


def test_no_weight_is_left_as_the_memory_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: empty(*size, **options).fill_(torch.nan))
    model = build(_coca())  # refused where a weight is NaN
    width = model.backbone.text_decoder.text_projection.shape[0]
    assert float(model.backbone.text_decoder.text_projection.detach().std()) == pytest.approx(width**-0.5, rel=0.01)


# -- inputs --------------------------------------------------------------------------------------------------------


def test_one_or_many_of_any_kind(clip: ImageTextModel, files: list[Path], pictures: list[Image.Image]) -> None:
    want = clip.encode_image(pictures)
    arrays = [np.array(image) for image in pictures]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    for many in (files, [str(f) for f in files], arrays, tensors, [f.read_bytes() for f in files]):
        assert torch.equal(clip.encode_image(many), want)
    # Batches of other sizes may differ in the last bits of a matrix product.
    for one in (files[0], str(files[0]), pictures[0], arrays[0], tensors[0]):
        found = clip.encode_image(one)
        assert found.shape == (1, 32)
        torch.testing.assert_close(found, want[:1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clip.encode_image(files, batch_size=3), want, rtol=1e-5, atol=1e-6)
    floats = [tensor.float() / 255 for tensor in tensors]
    assert torch.cosine_similarity(clip.encode_image(floats), want).min() > 0.999
    torch.testing.assert_close(clip.encode_image(floats[2][None]), want[2:3], rtol=1e-5, atol=1e-5)


def test_raw_by_default(clip: ImageTextModel, pictures: list[Image.Image]) -> None:
    raw = clip.encode_image(pictures)
    assert (raw.norm(dim=-1) - 1).abs().min() > 1e-3
    unit = clip.encode_image(pictures, normalize=True)
    torch.testing.assert_close(unit, raw / raw.norm(dim=-1, keepdim=True))
    text = clip.encode_text(TEXTS)
    torch.testing.assert_close(clip.encode_text(TEXTS, normalize=True), text / text.norm(dim=-1, keepdim=True))


def test_gradient_reaches_the_pixels(clip_folder: Path) -> None:
    model = load(clip_folder, dtype="float64")
    torch.manual_seed(0)
    x = (0.3 + 0.4 * torch.rand(1, 3, 40, 36, dtype=torch.float64)).requires_grad_()
    direction = torch.randn(32, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((model.encode_image(x) @ direction).sum(), x)
    step = torch.randn_like(x)
    epsilon = 1e-6
    with torch.no_grad():
        ends: list[Tensor] = [model.encode_image(x + sign * epsilon * step) @ direction for sign in (1, -1)]
    slope = (ends[0] - ends[1]).item() / (2 * epsilon)
    assert (gradient * step).sum().item() == pytest.approx(slope, rel=1e-5)


def test_pictures_keep_no_graph_but_may_be_trained_on(clip: ImageTextModel, pictures: list[Image.Image]) -> None:
    features = clip.encode_image(pictures)
    assert not features.requires_grad
    head = torch.nn.Linear(32, 2)
    head(features).sum().backward()  # an inference tensor would refuse
    assert head.weight.grad is not None
    assert clip.encode_image(torch.rand(1, 3, 32, 32)).requires_grad
    assert not clip.text_bank(["cat"]).raw.requires_grad


def test_training_mode_takes_a_tensor_as_one_batch() -> None:
    model = build(_timm("resnet10t")).train()
    x = torch.rand(6, 3, 32, 32)
    state = copy.deepcopy(model.state_dict())
    whole = model.encode_image(x, batch_size=6)
    model.load_state_dict(state)
    torch.testing.assert_close(model.encode_image(x, batch_size=2), whole)


def test_unreadable_pictures(clip: ImageTextModel, files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:100])
    mixed = [files[0], bad, files[1], tmp_path / "gone.png"]
    with pytest.raises(DataError, match=r"bad\.png"):
        clip.encode_image(mixed)
    with pytest.warns(UserWarning, match=r"2 images could not be read.*bad\.png"):
        features = clip.encode_image(mixed, on_error="skip")
    torch.testing.assert_close(features, clip.encode_image(files[:2]), rtol=1e-5, atol=1e-6)
    found = clip.classify(mixed, ["cat", "dog"], on_error="skip")
    assert found.keys == [str(files[0]), str(files[1])]
    assert [key for key, _ in found.skipped] == [str(bad), str(tmp_path / "gone.png")]
    assert len(found) == 2


def test_other_sizes(clip: ImageTextModel, hf_clip_folder: Path, pictures: list[Image.Image]) -> None:
    with pytest.raises(NotSupported, match="32 x 32 pixels, not 48 x 48"):
        clip.encode_image(pictures, size=48)
    model = load(hf_clip_folder)
    pixels = model.preprocess(pictures, size=48)
    with torch.no_grad():
        want = model.backbone.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
    want = want if isinstance(want, Tensor) else want.pooler_output
    torch.testing.assert_close(model.encode_image(pictures, size=48), want, rtol=1e-5, atol=1e-6)


def test_bad_arguments(clip: ImageTextModel, pictures: list[Image.Image]) -> None:
    with pytest.raises(UsageError, match="empty"):
        clip.encode_image([])
    with pytest.raises(UsageError, match="batch_size"):
        clip.encode_image(pictures, batch_size=0)
    with pytest.raises(UsageError, match="on_error"):
        clip.encode_image(pictures, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="empty"):
        clip.encode_text([])
    for labels, message in (([], "empty"), (["cat", "cat"], "'cat'"), (["cat", ""], "non-empty")):
        with pytest.raises(UsageError, match=message):
            clip.classify(pictures, labels)
    with pytest.raises(UsageError, match="top"):
        clip.classify(pictures, ["cat"], top=0)
    with pytest.raises(UsageError, match="empty"):
        clip.classify([], ["cat"])


# -- texts and labels ----------------------------------------------------------------------------------------------


def test_text_bank_is_sentence_by_sentence(clip: ImageTextModel) -> None:
    bank = clip.text_bank({"cat": ["cat", "kitten"], "dog": ["dog"]}, ["a {}", "the {}."], background=["sky"])
    assert bank.names == ["cat", "dog", "sky"]
    assert bank.texts[:4] == ["a cat", "the cat.", "a kitten", "the kitten."]
    assert bank.owner.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert bank.background.tolist() == [False, False, True]
    singles = torch.cat([clip.encode_text(text) for text in bank.texts])
    torch.testing.assert_close(bank.raw, singles, rtol=1e-5, atol=1e-6)
    assert float(bank.scale) == pytest.approx(clip.logit_scale.exp().item())
    with pytest.raises(UsageError, match="'dog'"):
        clip.text_bank(["dog"], background=["dog"])


def test_classify_is_open_clips_zero_shot_classifier(clip: ImageTextModel, pictures: list[Image.Image]) -> None:
    templates = ["a photo of a {}.", "a drawing of a {}.", "the {}"]
    labels = ["cat", "red dog", "tree"]
    theirs = open_clip.build_zero_shot_classifier(
        clip.backbone,
        lambda texts: open_clip.tokenize(texts, context_length=12),
        classnames=labels,
        templates=[lambda c, t=t: t.replace("{}", c) for t in templates],
    )
    want = clip.scale() * clip.encode_image(pictures, normalize=True) @ theirs
    found = clip.classify(pictures, labels, templates=templates, top=2)
    torch.testing.assert_close(found.logits, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.probs.sum(-1), torch.ones(4))
    assert all(len(row) == 2 for row in found.top())
    assert torch.equal(clip.classify(pictures, clip.text_bank(labels, templates)).logits, found.logits)


def test_float_tensors_classify_like_pictures(clip: ImageTextModel, pictures: list[Image.Image]) -> None:
    exact = pictures[2]  # already of the model's size
    tensor = torch.from_numpy(np.array(exact)).permute(2, 0, 1).float() / 255
    want = clip.classify(exact, ["cat", "dog"]).logits
    torch.testing.assert_close(clip.classify(tensor, ["cat", "dog"]).logits, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip.classify([tensor], ["cat", "dog"]).logits, want, rtol=1e-4, atol=1e-4)


def test_siglip_bias_counts(siglip: ImageTextModel, pictures: list[Image.Image]) -> None:
    found = siglip.classify(pictures, ["cat", "dog"])
    unit = siglip.encode_image(pictures, normalize=True) @ siglip.encode_text(["cat", "dog"], normalize=True).T
    want = torch.sigmoid(siglip.logit_scale.exp() * unit + siglip.logit_bias)
    torch.testing.assert_close(found.probs, want, rtol=1e-4, atol=1e-5)
    # Without the bias the same sigmoid would be far higher: it was -3.
    assert float(found.probs.max()) < 0.9 * torch.sigmoid(siglip.scale() * unit).min().item()


def test_tokens_say_where_the_tower_reads(clip: ImageTextModel, siglip: ImageTextModel) -> None:
    """The state at `position`, through the tower's own projection, is the feature."""
    for model in (clip, siglip):
        tokens = model.tokenize(TEXTS)
        text = getattr(model.backbone, "text", model.backbone)
        seen = []
        handle = text.ln_final.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        want = model.encode_text(tokens)
        handle.remove()
        got = seen[0][torch.arange(3), tokens.position] @ text.text_projection
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


# -- facts, copies, disk -------------------------------------------------------------------------------------------


def test_fingerprint_follows_what_features_depend_on(clip_folder: Path) -> None:
    model, again = load(clip_folder), load(clip_folder)
    first = model.fingerprint
    assert first == again.fingerprint == model.fingerprint
    assert len(first) == 32
    with torch.no_grad():
        model.backbone.visual.conv1.weight[0, 0, 0, 0] += 1e-3
    changed = model.fingerprint
    assert changed != first
    with torch.no_grad():
        model.backbone.visual.conv1.weight.copy_(again.backbone.visual.conv1.weight)
    assert model.fingerprint == first
    again.preprocess = again.preprocess.at(40)
    assert again.fingerprint != first
    model.history.append("pruned")
    assert model.fingerprint != first
    assert load(clip_folder, dtype="bfloat16").fingerprint != first


def test_save_and_load(siglip: ImageTextModel, pictures: list[Image.Image], tmp_path: Path) -> None:
    siglip.card["summary"] = "a test"
    folder = siglip.save(tmp_path / "deep" / "m")
    again = load(folder)
    assert torch.equal(again.encode_image(pictures), siglip.encode_image(pictures))
    assert torch.equal(again.encode_text(TEXTS), siglip.encode_text(TEXTS))
    assert again.fingerprint == siglip.fingerprint
    assert again.card["summary"] == "a test"
    assert not list(folder.glob("*.tmp"))
    half = siglip.save(tmp_path / "half", dtype="float16")
    assert (half / "open_clip_model.safetensors").stat().st_size < 0.55 * (
        folder / "open_clip_model.safetensors"
    ).stat().st_size
    assert torch.equal(load(half).logit_scale, siglip.logit_scale)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        siglip.save(tmp_path / "file")


@pytest.mark.parametrize("which", ["hf_clip_folder", "hf_siglip_folder"])
def test_save_and_load_transformers(which: str, request: pytest.FixtureRequest, pictures, tmp_path: Path) -> None:
    model = load(request.getfixturevalue(which))
    again = load(model.save(tmp_path / "m"))
    assert again.preprocess == model.preprocess
    assert torch.equal(again.encode_image(pictures), model.encode_image(pictures))
    assert torch.equal(again.encode_text(TEXTS), model.encode_text(TEXTS))


def test_forward_gives_both_sides(siglip: ImageTextModel) -> None:
    x = torch.rand(3, 3, 32, 32)
    out = siglip(x, siglip.tokenize(TEXTS))
    torch.testing.assert_close(out.image_features, siglip.encode_image(x))
    torch.testing.assert_close(out.text_features, siglip.encode_text(TEXTS))
    loss = (out.image_features @ out.text_features.T).mean() * out.logit_scale + out.logit_bias
    loss.backward()
    assert siglip.logit_scale.grad is not None
    assert siglip.logit_bias is not None
    assert siglip.logit_bias.grad is not None
    assert siglip(x, None).text_features is None


def test_copies_stand_alone(clip: ImageTextModel) -> None:
    x = torch.rand(1, 3, 32, 32)
    tower = clip.image_tower
    other = copy.deepcopy(clip)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert clip.image_tower is tower
    assert float(clip.encode_image(x).detach().norm()) > 0
    assert float(other.encode_image(x).detach().norm()) == 0
    assert list(clip.state_dict()) == [f"backbone.{name}" for name in clip.backbone.state_dict()]


def test_random_weights_warn_only_by_name(clip_folder: Path) -> None:
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        load(clip_folder)
    assert [str(warning.message) for warning in recorded] == []
