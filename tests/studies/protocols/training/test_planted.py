"""Planted effects: stored tokens continue to the model's own features, and teaching changes a copy."""

from __future__ import annotations

import numpy as np
import torch

from binderclip.models import ImageTextModel, build
from binderclip.studies.protocols.data.visual_scenes import as_arrays, cluttered, object_regions
from binderclip.studies.protocols.training.planted import embedded, finished, plant


def tiny() -> ImageTextModel:
    torch.manual_seed(0)
    vision = {
        "timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_proj": "linear", "timm_pool": "token"
    }  # fmt: skip
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "custom_text": True}, name="tiny")
    del model.backbone.visual.trunk.blocks[1:]
    return model.eval()


def test_stored_tokens_end_as_the_models_own_features_and_teaching_changes_a_copy() -> None:
    model = tiny()
    dark, light = np.zeros((40, 40, 3), dtype=np.uint8), np.full((40, 40, 3), 255, dtype=np.uint8)
    tokens = embedded(model, [dark, light])
    before = model.encode_image([dark, light], normalize=True).detach()
    assert torch.allclose(finished(model, tokens), before, atol=1e-5)
    taught = plant(model, tokens.repeat(4, 1, 1), ["night", "snow"] * 4, steps=25, seed=0, batch_size=4)
    assert torch.equal(model.encode_image([dark, light], normalize=True), before)
    texts = model.encode_text(["night", "snow"], normalize=True).detach()
    assert (finished(taught, tokens) @ texts.T).argmax(dim=1).tolist() == [0, 1]
    right = (finished(taught, tokens) @ texts.T).diagonal() - (before @ texts.T).diagonal()
    assert float(right.mean()) > 0


def test_regions_of_scenes_have_their_names_boxes_and_masks() -> None:
    found = cluttered(0, 3, objects=(2, 3), size=64)
    for row, own in enumerate(object_regions(found)):
        assert [region.name for region in own] == found.names[row]
        for region in own:
            assert region.mask is not None
            rows, columns = np.nonzero(region.mask)
            assert region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert as_arrays(found.images)[0].shape == (64, 64, 3)
