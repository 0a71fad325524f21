"""Tiny random SAM and SAM 2 models: the adapter against transformers' own processor and model."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from binderclip.errors import CheckpointError, NotSupported
from binderclip.segment import parts_of
from binderclip.segment.parts import splicing
from binderclip.segment.promptable import (
    AutomaticMasks,
    HfSegmenter,
    InteractiveSession,
    PromptableSegmenter,
    Prompts,
    encoder_attention,
    load_promptable,
)

transformers = pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location("hf_models", Path(__file__).with_name("hf_models.py"))
hf_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hf_models)
SIDE = hf_models.SIDE


@pytest.fixture(scope="module", params=["sam", "sam2", "sam3"])
def pair(request):
    torch.manual_seed(0)
    return getattr(hf_models, request.param)()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = torch.Generator().manual_seed(1)
    pixels = (torch.rand(45, 80, 3, generator=generator) * 255).to(torch.uint8)
    return Image.fromarray(pixels.numpy())


POINTS, LABELS = [[[10.0, 12], [70, 40]], [[33, 20], [50, 5]]], [[1, 0], [1, 1]]
BOXES = [[4.0, 5, 40, 30], [20, 10, 79, 44]]


@pytest.mark.parametrize("prompt", ["points", "boxes", "both"])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_equal_the_librarys_own(pair, picture, prompt, multimask):
    model, processor = pair
    theirs = {"input_points": [POINTS], "input_labels": [LABELS]} if prompt != "boxes" else {}
    theirs |= {"input_boxes": [BOXES]} if prompt != "points" else {}
    inputs = processor(images=picture, return_tensors="pt", **theirs)
    inputs = {k: v.float() if v.dtype == torch.float64 else v for k, v in inputs.items()}
    sizes = [inputs.pop("original_sizes")]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes"))
    with torch.no_grad():
        out = model(**inputs, multimask_output=multimask)
    expected = processor.image_processor.post_process_masks(out.pred_masks, *sizes, binarize=False)[0]

    segmenter = HfSegmenter(model, processor)
    given = Prompts(
        torch.tensor(POINTS) if prompt != "boxes" else None,
        torch.tensor(LABELS) if prompt != "boxes" else None,
        torch.tensor(BOXES) if prompt != "points" else None,
    )
    found = segmenter.predict(segmenter.encode(picture), given, multimask=multimask)
    assert found.logits.shape == (2, 3 if multimask else 1, 45, 80)
    torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.scores, out.iou_scores[0], atol=1e-5, rtol=1e-4)


def test_a_mask_prompt_equals_the_librarys_own(pair, picture):
    model, processor = pair
    segmenter = HfSegmenter(model, processor)
    state = segmenter.encode(picture)
    first = segmenter.predict(state, Prompts.of(points=[(30, 20)]), multimask=False)
    found = segmenter.predict(state, Prompts.of(points=[(30, 20)], mask=first.low_res[0, 0]), multimask=False)
    inputs = processor(images=picture, input_points=[[[[30.0, 20]]]], input_labels=[[[1]]], return_tensors="pt")
    with torch.no_grad():
        out = model(
            pixel_values=inputs["pixel_values"],
            input_points=inputs["input_points"].float(),
            input_labels=inputs["input_labels"],
            input_masks=torch.nn.functional.interpolate(first.low_res, size=first.low_res.shape[2:], mode="bilinear"),
            multimask_output=False,
        )
    torch.testing.assert_close(found.low_res, out.pred_masks[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.low_res, first.low_res)


def test_points_have_gradients(pair, picture):
    segmenter = HfSegmenter(*pair)
    assert isinstance(segmenter, PromptableSegmenter)
    points = torch.tensor([[[30.0, 20]]], requires_grad=True)
    segmenter.predict(segmenter.encode(picture), Prompts(points, torch.ones(1, 1).long())).logits.sum().backward()
    assert bool((points.grad != 0).any())


def test_floats_equal_the_bytes_they_came_from(pair, picture):
    segmenter = HfSegmenter(*pair)
    floats = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(45, 80, 3).permute(2, 0, 1) / 255
    states = [segmenter.encode(image) for image in (picture, floats)]
    logits = [segmenter.predict(s, Prompts.of(points=[(30, 20)])).logits for s in states]
    torch.testing.assert_close(logits[0], logits[1])


def test_a_folder_opens_by_name(pair, picture, tmp_path):
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours, prompts = HfSegmenter(model, processor), Prompts.of(points=[(30, 20)])
    expected = ours.predict(ours.encode(picture), prompts).logits
    for name in (f"hf:{tmp_path}", str(tmp_path)):
        again = load_promptable(name)
        found = again.predict(again.encode(picture), prompts).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_pickled_weights_are_not_read(tmp_path):
    model, processor = hf_models.sam()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load_promptable(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no config"):
        load_promptable(tmp_path)


def test_a_rough_mask_alone_is_a_prompt(pair, picture):
    segmenter = HfSegmenter(*pair)
    session = InteractiveSession(segmenter, picture)
    rough = torch.zeros(45, 80, dtype=torch.bool)
    rough[10:30, 20:60] = True
    first = session.rough(rough)
    assert first.shape == (45, 80)
    other = InteractiveSession(segmenter, picture, state=session.state)
    other.rough(~rough)
    assert not torch.equal(other.logits, session.logits)


def test_another_kind_is_refused(tmp_path):
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    with pytest.raises(NotSupported, match="clip"):
        load_promptable(f"hf:{tmp_path}")


def noise(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_sams_attention_is_what_its_last_layer_computes() -> None:
    torch.manual_seed(0)
    segmenter = HfSegmenter(*hf_models.sam())
    for name, parameter in segmenter.model.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter)
    attention = segmenter.model.vision_encoder.layers[-1].attn
    image = noise(SIDE, SIDE)
    with torch.no_grad():
        seen = []
        handle = attention.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
        segmenter.encode(image)
        handle.remove()
        found = encoder_attention(segmenter, image)
        mixed = (found.weights @ found.values).transpose(0, 1).flatten(1)
        torch.testing.assert_close(attention.proj(mixed).view(8, 8, -1), seen[0][0], atol=1e-5, rtol=1e-4)


def test_padding_is_left_out_of_sams_attention() -> None:
    found = encoder_attention(HfSegmenter(*hf_models.sam()), noise(SIDE // 2, SIDE))
    assert found.grid == (4, 8)
    assert found.weights.shape[1:] == (32, 32)
    assert (found.weights.sum(-1) < 1).all()


def test_a_side_meant_for_a_tower_keeps_no_sam_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "promptable", lambda name, device: HfSegmenter(*hf_models.sam()))
    mix = replace(parts_of("trident").mix, source="hf:tiny")
    assert mix.size is not None
    weights, grid = mix._weights(noise(SIDE // 2, SIDE))
    assert grid == (4, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(32))


def test_sam_2_has_no_global_attention() -> None:
    with pytest.raises(NotSupported, match="HfSegmenter"):
        encoder_attention(HfSegmenter(*hf_models.sam2()), noise(32, 32))
    with pytest.raises(NotSupported, match="another side"):
        encoder_attention(HfSegmenter(*hf_models.sam()), noise(32, 32), side=64)


OFFSET = {"stability_score_offset": 0.05}  # the logits of random weights are small


def _all_masks(pair, picture, **settings):
    """What transformers' own pipeline finds, as a boolean stack, and its scores."""
    model, processor = pair
    pipeline = transformers.pipeline("mask-generation", model=model, image_processor=processor.image_processor)
    found = pipeline(picture, points_per_crop=6, points_per_batch=12, **OFFSET, **settings)
    return torch.stack([torch.as_tensor(mask).bool() for mask in found["masks"]]), found["scores"]


def _same(ours, masks, scores, share=1.0):
    """The same masks with the same scores, in any order; two pixels may be rounded to the other side.

    `share`: of the masks that have to be the same. The library resizes its crops by other code than whole pictures, and
    where the maximum of a blotch moves the blotch goes with it.
    """
    assert len(ours) == len(masks) > 3
    torch.testing.assert_close(ours.scores.sort()[0], scores.sort()[0], atol=5e-4, rtol=0)
    mine, theirs = ours.masks.flatten(1).float(), masks.flatten(1).float()
    differing = mine.sum(1)[:, None] + theirs.sum(1) - 2 * mine @ theirs.T
    assert float(differing.min(0)[0].quantile(share)) <= 2
    assert float(differing.min(1)[0].quantile(share)) <= 2


@pytest.fixture(scope="module")
def blotchy():
    """A SAM of random weights whose masks are blotches of several sizes that depend on the point."""

    def compact(_module, _inputs, out):
        masks = torch.nn.functional.avg_pool2d(out[0].flatten(0, 1), 5, 1, 2).flatten(0, 1)
        at = masks.flatten(1).argmax(1)
        y, x = torch.meshgrid(*(torch.arange(n).float() for n in masks.shape[1:]), indexing="ij")
        away = torch.hypot(y - (at // masks.shape[2])[:, None, None], x - (at % masks.shape[2])[:, None, None])
        size = 3 + 8 * (at % 5)[:, None, None] / 5
        return (30 * masks + 0.3 * (1 - away / size)).view_as(out[0]), *out[1:]

    torch.manual_seed(3)
    model, processor = hf_models.sam()
    with torch.no_grad():
        for module in (model.mask_decoder, model.prompt_encoder, model.shared_image_embedding):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(6)
        model.mask_decoder.iou_prediction_head.proj_out.bias.add_(0.5)
    model.mask_decoder.register_forward_hook(compact)
    return model, processor


@pytest.mark.parametrize("quantile", [0.2, 0.4])
@pytest.mark.parametrize("nms", [0.7, 0.9])
def test_automatic_masks_are_those_of_the_librarys_pipeline(blotchy, picture, quantile, nms):
    ours = AutomaticMasks(
        HfSegmenter(*blotchy), points_per_side=6, points_per_batch=12, pred_iou_thresh=0,
        stability_score_thresh=0, box_nms_thresh=1.0,
        **OFFSET,
    )  # fmt: skip
    everything = ours(picture)
    least = {  # between two values, above 0: the library takes 0 for no filter
        "pred_iou_thresh": float(everything.scores.unique().quantile(quantile)) + 1e-6,
        "stability_score_thresh": float(everything.stability.unique().quantile(quantile)) + 1e-6,
    }
    masks, scores = _all_masks(blotchy, picture, crops_nms_thresh=nms, **least)
    kept = replace(ours, box_nms_thresh=nms, **least)(picture)
    assert len(kept) < len(everything)
    _same(kept, masks, scores)


def test_crops_are_those_of_the_librarys_pipeline(blotchy, picture):
    large, least = picture.resize((240, 160)), {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.1}
    masks, scores = _all_masks(blotchy, large, crops_nms_thresh=1.0, crops_n_layers=1, crop_overlap_ratio=0.3, **least)
    ours = AutomaticMasks(
        HfSegmenter(*blotchy), points_per_side=6, points_per_batch=12, box_nms_thresh=1.0, crop_nms_thresh=1.0,
        crop_n_layers=1,
        crop_overlap_ratio=0.3, **OFFSET, **least,
    )  # fmt: skip
    found = ours(large)
    assert len(replace(ours, crop_n_layers=0)(large)) < len(found)
    _same(found, masks, scores, share=0.95)
