"""RAVE (p050, arXiv 2404.01889): the direction of the pictures guides the network that CLIP-LIT trains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import DataError
from binderclip.models import ImageTextModel
from binderclip.quality import RAVE, IlluminationNet, ResidualVector


def pictures(count: int, seed: int, gain: float) -> Tensor:
    return gain * F.interpolate(torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)), (32, 32))


def trainer(model: ImageTextModel) -> RAVE:
    torch.manual_seed(0)
    return RAVE(model, network=IlluminationNet(4, level=0.9, std=0.1), content=0.0)


def test_results_go_as_far_as_well_lit_pictures(vit: ImageTextModel) -> None:
    dark, bright = pictures(3, 0, 0.3), pictures(4, 1, 1.0)
    rave = trainer(vit)
    residual = rave.residual(dark, bright)
    with torch.no_grad():
        own = ResidualVector.between(*(vit.encode_image(x) for x in (bright, dark)))
        assert torch.allclose(residual.direction, own.direction, atol=1e-4)
        before = residual.along(rave.embed(dark))
    said: list[str] = []
    done = rave.fit(dark, bright, warmup_steps=0, steps=25, lr=1e-2, batch_size=3, progress=said.append)
    with torch.no_grad():
        after = residual.along(rave.embed(rave(dark)))
    assert float(after.abs().mean()) < 0.6 * float(before.abs().mean())
    assert float(rave(dark).mean()) > float(dark.mean())
    assert list(done.stages) == ["enhancement 1"]
    assert said[:2] == ["embedding the pictures", "the network"]
    assert said[-1] == "the network: step 25 of 25"
    # A direction of the user's own is taken as it is.
    again = trainer(vit)
    again.fit(dark, bright, guidance=residual, warmup_steps=1, steps=1, lr=1e-3)
    assert again.guidance is residual


def test_sets_of_one_light_are_refused(vit: ImageTextModel) -> None:
    dark = pictures(3, 0, 0.3)
    with pytest.raises(DataError, match="same mean"):
        trainer(vit).fit(dark, dark, steps=1)
