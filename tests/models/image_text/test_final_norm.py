"""open_clip's transformers without the normalisation before the projection, for geometries that see lengths (p153)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import build, load

from ..conftest import tiny_cfg


@pytest.mark.parametrize("custom", [False, True])
def test_towers_without_final_norm_are_the_others_with_it_taken_out(custom: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bare = build({**tiny_cfg(custom_text=custom), "final_norm": False}, name="bare")
    full = build(tiny_cfg(custom_text=custom), name="full")
    missing, unexpected = full.backbone.load_state_dict(bare.backbone.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in missing} == {"ln_post", "ln_final"}
    text_tower = bare.backbone.text if custom else bare.backbone
    seen: dict[str, torch.Tensor] = {}
    bare.visual.ln_post.register_forward_hook(lambda _, __, out: seen.update(image=out))
    text_tower.ln_final.register_forward_hook(lambda _, __, out: seen.update(text=out))
    image, tokens = torch.rand(3, 3, *bare.preprocess.size), bare.tokenize(["cat", "red car", "a tree"])
    with torch.no_grad():
        found, said = bare.encode_image(image), bare.encode_text(tokens)
        ends = seen["text"][torch.arange(3), tokens.position]
        cases = [
            (seen["image"][:, 0], bare.visual.proj, found, full.encode_image(image)),
            (ends, text_tower.text_projection, said, full.encode_text(tokens)),
        ]
        for stream, projection, without, within in cases:
            torch.testing.assert_close(stream @ projection, without)
            torch.testing.assert_close(F.layer_norm(stream, stream.shape[-1:]) @ projection, within)
        tower = bare.image_tower
        pixels = bare.preprocess(image)
        torch.testing.assert_close(tower.project(tower.pool(tower.run(tower.embed(pixels)))), found)
    bare.save(tmp_path / "bare")
    assert load(tmp_path / "bare").fingerprint == bare.fingerprint


def test_final_norms_that_cannot_be_left_out_are_refused() -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "avg", "timm_proj": "linear"}
    with pytest.raises(UsageError, match="own vision transformer"):
        build({**tiny_cfg(vision_cfg=vision), "final_norm": False})
    with pytest.raises(UsageError, match="must be true or false"):
        build({**tiny_cfg(), "final_norm": "no"})
