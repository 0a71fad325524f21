"""A new image tower beside a trained model's texts, as a recipe's `model` describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load, upcycle
from binderclip.train import build_model, load_recipe

VISION = {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16}


def built(base: str | Path, seed: int = 0, **settings: Any) -> Any:
    described = {"arch": "new-image-tower", "base": str(base), "vision": VISION, **settings}
    return build_model(described, seed=seed, captions=list)


@pytest.mark.parametrize("base", ["tiny", "small"])
def test_texts_are_the_base_s_and_pictures_new(base: str, tiny_clip: Any, tmp_path: Path) -> None:
    name = tiny_clip(1) if base == "tiny" else base
    known, new = load(name), built(name)
    words = ["a red cat", "tree"]
    torch.testing.assert_close(new.encode_text(words), known.encode_text(words))
    assert torch.equal(new.scale(), known.scale())
    assert (new.image_size, new.embed_dim) == (64, known.embed_dim)
    assert new.image_tower.depth == 3
    assert new.encode_image(torch.rand(1, 3, 64, 64)).shape == (1, known.embed_dim)
    new.save(tmp_path / "new")
    torch.testing.assert_close(load(tmp_path / "new").encode_text(words), known.encode_text(words))
    assert torch.equal(built(name).visual.proj, new.visual.proj)
    assert not torch.equal(built(name, seed=1).visual.proj, new.visual.proj)


def test_another_width_of_the_shared_space_makes_the_text_projection_new(tiny_clip: Any) -> None:
    known, new = load(tiny_clip(1)), built(tiny_clip(1), embed_dim=24)
    theirs, own = known.backbone.state_dict(), new.backbone.state_dict()
    other = {name for name in theirs if not name.startswith("visual.") and not torch.equal(theirs[name], own[name])}
    assert other == {"text_projection"} or {name.rpartition(".")[2] for name in other} == {"text_projection"}
    assert new.encode_text(["cat"]).shape == (1, 24)


def test_what_it_cannot_start_from_is_said(tiny_clip: Any, tmp_path: Path) -> None:
    upcycle(load(tiny_clip(2)), experts=2).save(tmp_path / "sparse")
    with pytest.raises(NotSupported, match="an entry 'experts'"):
        built(tmp_path / "sparse")
    with pytest.raises(UsageError, match="no image-text model"):
        built("small-dino")
    with pytest.raises(UsageError, match="must be 'layer' or 'rms'"):
        built(tiny_clip(1), vision={**VISION, "norm": "none"})


def test_the_recipe_of_the_paper_has_its_constants() -> None:
    recipe = load_recipe("eva-clip")
    features, contrastive = recipe.stage
    vision = recipe.model["vision"]
    assert int(16 * 16 * features.kind["ratio"]) == 105
    # 18 billion parameters: four width x width matrices of attention and two of the MLP a block
    blocks = vision["layers"] * (4 + 2 * vision["mlp_ratio"]) * vision["width"] ** 2
    assert 17.4e9 < blocks < 18e9
    assert vision["width"] // vision["head_width"] == 40
    assert (vision["norm"], vision["post_norm"], vision["qkv_bias"]) == ("rms", True, False)
    text = next(group for group in contrastive.groups if group.match == "text.*")
    assert contrastive.lr * text.lr == pytest.approx(4e-5)
    assert contrastive.warmup / contrastive.batch_size == pytest.approx(2000)
    small = load_recipe("eva-clip-small")
    assert small.scaling["of"] == "eva-clip"
    assert [stage.kind for stage in small.stage][1] == "contrastive"
