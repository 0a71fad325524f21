"""CLIP4DM's word scores (arXiv 2412.18404): against finite differences, transformers' own attention, and the words."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import LeaveOneWordOut, TextTokenAttribution
from binderclip.explain.words.text_tokens import combine_blocks
from binderclip.explain.words.token_words import words_of_tokens
from binderclip.models import ImageTextModel, Preprocess, build
from binderclip.models.text.tokenize import FileTokenizer, TransformersTokenizer

CAPTION = "a red car-park, isn't"


def made(**text) -> ImageTextModel:
    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4} | text,
        },
        name="tiny",
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.ndim:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return made()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(1, 24, generator=torch.Generator().manual_seed(4))


def wordpiece():
    """transformers' fast tokenizer of letters and a few words, with a start and an end token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz-"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "dog", "and", *letters, *(f"##{x}" for x in letters)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", eos_token="[SEP]", sep_token="[SEP]")


def transformers_model(kind: str) -> ImageTextModel:
    """A tiny CLIPModel or SiglipModel of transformers behind our face."""
    import transformers

    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = part | {"vocab_size": 70, "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3}
    vision = part | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(2)
    if kind == "hf-clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        backbone = transformers.CLIPModel(config).eval()
    else:
        config = transformers.SiglipConfig(text_config=text | {"projection_size": 32}, vision_config=vision)
        backbone = transformers.SiglipModel(config).eval()
    tokenizer = TransformersTokenizer(wordpiece(), 12)
    return ImageTextModel(backbone, kind=kind, name="tiny", preprocess=Preprocess((32, 32)), tokenizer=tokenizer)


def test_words_are_found_among_the_tokens_of_every_tokenizer(model, tmp_path: Path):
    wordpiece().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    from_file = FileTokenizer(tmp_path, 12, clean=str.lower)
    for tokenizer in (model.tokenizer, TransformersTokenizer(wordpiece(), 12), from_file):
        (words,) = words_of_tokens(tokenizer, ["a cat - a dog"])
        assert [word.text for word in words] == ["a", "cat", "-", "a", "dog"]
        ids, mask, _ = tokenizer.encode(["a cat - a dog"])
        special = tokenizer.encode([""])[1].sum()
        # the words tile the tokens between the special ones
        assert all(left.stop == right.start for left, right in itertools.pairwise(words))
        assert sum(word.stop - word.start for word in words) == mask.sum() - special
        first, last = words[0], words[3]
        assert ids[0, first.start : first.stop].tolist() == ids[0, last.start : last.stop].tolist()


def test_a_word_has_all_its_pieces(model):
    words = words_of_tokens(model.tokenizer, [CAPTION])[0]
    pieces = [model.tokenizer.simple.decode(model.tokenize(CAPTION).ids[0, w.start : w.stop].tolist()) for w in words]
    assert [piece.replace(" ", "") for piece in pieces] == ["a", "red", "car-park,", "isn't"]


def test_scaling_one_attention_entry_moves_the_cosine_by_its_product(model, features):
    """Finite differences: attention of the last block, entry (end, j) times 1 + delta, without renormalising."""
    exact = made().double()
    image = features.double()
    found = TextTokenAttribution(layers=1)(exact, image, CAPTION)
    tower, tokens = exact.text_tower, exact.tokenize(CAPTION)
    end, heads = int(tokens.position), tower.heads

    def cosine(column: int, delta: float) -> float:
        before = tower.run(tower.embed(tokens), stop=-1)
        block = tower.blocks[-1]
        q, k, v = block.qkv(before.x)
        weights = block.weights(q, k, tower.bias(before)).clone()
        weights[:, :, end, column] *= 1 + delta
        x = before.x + block.mix(weights, v)
        embedding = tower.project(tower.pool(before.with_x(x + block.mlp(x))))
        return float(F.cosine_similarity(embedding, image))

    with torch.no_grad():
        slopes = [(cosine(j, 1e-5) - cosine(j, -1e-5)) / 2e-5 for j in range(end)]
    assert torch.allclose(
        found.tokens[0, :end], torch.tensor(slopes, dtype=torch.float64) / heads, rtol=1e-5, atol=1e-11
    )
    (words,) = words_of_tokens(exact.tokenizer, [CAPTION])
    means = [sum(slopes[w.start : w.stop]) / (w.stop - w.start) / heads for w in words]
    assert [score for _, score in found.words()[0]] == pytest.approx(means, rel=1e-5)


def test_transformers_with_eager_attention_agrees():
    ours = transformers_model("hf-clip")
    theirs = copy.deepcopy(ours.backbone)
    theirs.set_attn_implementation("eager")
    text, image = "a dog and a cat", torch.randn(1, 24, generator=torch.Generator().manual_seed(3))
    tokens = ours.tokenize(text)
    kept = theirs.text_model(input_ids=tokens.ids, attention_mask=tokens.mask.long(), output_attentions=True)
    embedding = theirs.text_projection(kept.pooler_output)
    score = (F.normalize(embedding, dim=-1) * F.normalize(image, dim=-1)).sum()
    grads = torch.autograd.grad(score, kept.attentions)
    expected = torch.stack([(g * a).mean(dim=1) for g, a in zip(grads, kept.attentions, strict=True)]).mean(dim=0)
    found = TextTokenAttribution()(ours, image, text)
    assert found.layers == (0, 1)  # three were asked for, the tower has two
    end = int(tokens.position)
    assert torch.allclose(found.tokens[0, :end], expected[0, end, :end].detach(), atol=1e-8)
    assert float(found.cosine) == pytest.approx(float(score.detach()), abs=1e-6)
    assert expected[0, end, 1:end].abs().max() > 1e-6


def test_towers_that_read_both_ways_are_scored():
    """SigLIP reads the sentence at its last place, whatever stands there; words after it do not exist."""
    one = transformers_model("hf-siglip")
    image = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    found = TextTokenAttribution()(one, image, ["a cat", "a dog and a cat"])
    assert all(score is not None and score != 0 for row in found.scores for score in row)
    theirs = F.cosine_similarity(one.encode_text(["a cat", "a dog and a cat"]), image)
    assert torch.allclose(found.cosine, theirs, atol=1e-6)


def test_a_batch_gives_what_its_captions_give_alone(model):
    images = torch.randn(5, 24, generator=torch.Generator().manual_seed(6))
    texts = ["a cat", CAPTION, "two green birds on a wire", "b", "a cat on a mat with a hat"]
    many = TextTokenAttribution(batch_size=2)(model, images, texts)
    for row, (image, text) in enumerate(zip(images, texts, strict=True)):
        alone = TextTokenAttribution()(model, image[None], text)
        assert many.scores[row] == pytest.approx(alone.scores[0], abs=1e-8)


def test_the_logit_scale_does_not_matter_and_the_model_is_left_as_it_was(features):
    model = made()
    before = TextTokenAttribution()(model, features, CAPTION).scores
    model.train()
    with torch.no_grad():
        model.logit_scale.fill_(0.0)
    assert TextTokenAttribution()(model, features, CAPTION).scores[0] == pytest.approx(before[0])
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.backbone.transformer.parameters())


def test_half_precision_keeps_small_gradients(model, features):
    exact = TextTokenAttribution()(model, features, CAPTION)
    # in half precision 1e-5 of the cosine's gradient would be lost without the lift
    half = TextTokenAttribution()(made().half(), features, CAPTION)
    top = max(abs(score) for score in exact.scores[0])
    assert half.scores[0] == pytest.approx(exact.scores[0], abs=0.05 * top)


def test_words_beyond_the_context_have_no_score(model, features):
    text = " ".join(["cat"] * 12 + ["unbelievable-dogs", "bird"])
    other = made()
    with pytest.warns(UserWarning, match="longer than 16 tokens"):
        found = TextTokenAttribution()(other, features, text)
    scores = found.scores[0]
    assert all(score is not None for score in scores[:12])
    assert scores[12] is None  # seen in part
    assert scores[13] is None


def test_rules_by_hand():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    signed, relu, relevance = (combine_blocks([first, second], rule)[0] for rule in ("signed", "relu", "relevance"))
    for i in range(3):
        for j in range(3):
            values = torch.stack([first[0, :, i, j], second[0, :, i, j]])
            assert signed[i, j] == pytest.approx(float(values.sum()) / 4)
            assert relu[i, j] == pytest.approx(float(values.clamp(min=0).sum()) / 4)
    eye, a, b = torch.eye(3), *(p[0].clamp(min=0).mean(dim=0) for p in (first, second))
    assert torch.allclose(relevance, (eye + b) @ (eye + a) - eye)


def test_leaving_a_word_out_is_what_it_says(model, features):
    found = LeaveOneWordOut()(model, features, "red cat sleeps")
    texts = ["red cat sleeps", "cat sleeps", "red sleeps", "red cat"]
    with torch.no_grad():
        full, *rest = (float(F.cosine_similarity(model.encode_text(t), features)) for t in texts)
    assert found.scores[0] == pytest.approx([full - r for r in rest], abs=1e-6)
    assert LeaveOneWordOut()(model, features, "cat").scores[0][0] == pytest.approx(
        float(F.cosine_similarity(model.encode_text("cat").detach(), features)), abs=1e-6
    )


def test_images_pair_with_captions(model, images):
    small = F.interpolate(images, size=(32, 32))
    features = model.encode_image(small).detach()
    pixels = TextTokenAttribution()(model, small, "a cat")
    assert len(pixels) == 3
    many = TextTokenAttribution()(model, features, ["a cat"] * 3)
    assert torch.allclose(pixels.tokens, many.tokens, atol=1e-6)


def test_errors_name_what_is_wrong(model, features):
    with pytest.raises(UsageError, match="at least 1"):
        TextTokenAttribution(layers=0)
    with pytest.raises(UsageError, match="rule must be one of signed, relu, relevance"):
        TextTokenAttribution(rule="abs")
    with pytest.raises(UsageError, match="2 images and 3 captions"):
        TextTokenAttribution()(model, features.expand(2, -1), ["a", "b", "c"])
    with pytest.raises(UsageError, match="has no words"):
        TextTokenAttribution()(model, features, "  ")
    with pytest.raises(UsageError, match="takes an ImageTextModel, and this is a module Linear"):
        TextTokenAttribution()(torch.nn.Linear(2, 2), features, "a cat")

    class Joining:
        """A tokenizer that takes a whole phrase as one token."""

        def encode(self, texts):
            known = {"": [1, 2, 0], "new": [1, 3, 2], "york": [1, 4, 2]}
            ids = torch.tensor([known.get(text, [1, 5, 2]) for text in texts])
            return ids, ids > 0, []

    with pytest.raises(NotSupported, match="reaches across white space"):
        words_of_tokens(Joining(), ["new york"])
    assert replace(TextTokenAttribution(), layers=2).layers == 2
