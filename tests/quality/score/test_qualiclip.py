"""QualiCLIP (p138, arXiv 2403.11176): the score, what training changes, files, the bundled weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.distortions.library import distort
from binderclip.errors import CheckpointError, UsageError
from binderclip.losses import QualityRank
from binderclip.models import ImageTextModel
from binderclip.quality import ANTONYMS, CLIPIQA, CLIPIQAPlus, QualiCLIP


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scenes(count: int) -> list[Tensor]:
    """Pictures with edges and shades, whose distortions can be seen."""
    blocks = made(count, 3, 6, 6, seed=7)
    return list(F.interpolate(blocks, size=(48, 48), mode="nearest") * torch.linspace(0.6, 1, 48))


def test_the_score_averages_seven_pairs_of_the_trained_tower(vit: ImageTextModel) -> None:
    assert len(ANTONYMS) == 7
    assert all(text.endswith(".") for pair in ANTONYMS for text in pair)
    metric = QualiCLIP(vit)
    with pytest.raises(UsageError, match="not fitted"):
        metric(made(1, 3, 40, 40))
    metric.fit(scenes(2), steps=1, crop=32, lr=1e-3)
    images = made(3, 3, 40, 40)
    features = F.normalize(metric.native(images), dim=-1)  # type: ignore[misc]
    wanted = []
    for good, bad in ANTONYMS:
        a, b = vit.encode_text([good, bad], normalize=True)
        wanted.append(torch.sigmoid(float(vit.scale().detach()) * (features @ (a - b))))
    assert torch.allclose(metric(images), torch.stack(wanted).mean(0), atol=1e-5)
    assert metric.lower_better is False


def test_training_orders_levels_and_leaves_the_given_model_and_the_texts_alone(vit: ImageTextModel) -> None:
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    metric, pictures = QualiCLIP(vit, scale=20.0), scenes(4)
    held = torch.stack(scenes(8)[4:])
    result = metric.fit(pictures, steps=50, crop=32, lr=3e-3, batch_size=4, kinds=["gaussian_noise"], seed=1)
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())
    assert all(parameter.requires_grad for parameter in vit.parameters())
    text = {name: value for name, value in metric.model.state_dict().items() if "visual" not in name}
    assert all(torch.equal(before[name], value) for name, value in text.items())
    losses, ordered = result.history["loss"], result.history["ordered"]
    assert losses[-5:].mean() < 0.5 * losses[0]
    assert ordered[-5:].mean() > 0.8

    def falling(score: object) -> float:
        with torch.no_grad():
            levels = torch.stack([score(distort(held, "gaussian_noise", n, 50)) for n in range(6)])  # type: ignore[operator]
        return float((levels[:-1] > levels[1:]).float().mean())

    # On pictures it has not seen, where the same words without training are no help.
    assert falling(metric) > 0.9
    assert falling(CLIPIQA(vit, ANTONYMS, scale=20.0)) < 0.75


def test_the_loss_sees_cosines_with_good_and_bad_photo(vit: ImageTextModel) -> None:
    metric = QualiCLIP(vit)
    crops = made(2, 2, 5, 3, 32, 32)
    found = metric.ranks(crops, QualityRank())
    poles = vit.encode_text(["Good photo.", "Bad photo."], normalize=True)
    features = torch.stack([F.normalize(vit.encode_image(one), dim=-1) for one in crops.flatten(0, 2)[:, None]])[:, 0]
    cosines = (features @ poles.T).view(2, 2, 5, 2)
    wanted = QualityRank()(cosines[..., 0], cosines[..., 1])
    assert float(found.total) == pytest.approx(float(wanted.total), rel=1e-4)


def test_some_parts_alone_can_be_trained_and_saved(vit: ImageTextModel, tmp_path: Path) -> None:
    metric = QualiCLIP(vit, parts=["*bias", "ln_post.*"])
    with pytest.raises(UsageError, match="nothing to save"):
        metric.save_weights(tmp_path / "w.safetensors")
    metric.fit(scenes(2), steps=2, crop=32, lr=1e-2)
    theirs = dict(vit.visual.named_parameters())
    changed = {n for n, value in metric.model.visual.named_parameters() if not torch.equal(value, theirs[n])}
    assert changed == set(metric.trained()) != set(theirs)
    assert all(name.endswith("bias") or name.startswith("ln_post.") for name in changed)
    path = metric.save_weights(tmp_path / "w.safetensors")
    again = QualiCLIP.from_weights(path, vit)
    images = made(2, 3, 40, 48)
    assert torch.equal(again(images), metric(images))
    assert (again.parts, again.scale) == (metric.parts, metric.scale)
    half = metric.save_weights(tmp_path / "half.safetensors", dtype=torch.float16)
    assert half.stat().st_size < path.stat().st_size
    assert torch.allclose(QualiCLIP.from_weights(half, vit)(images), metric(images), atol=1e-3)


def test_files_that_do_not_belong_are_refused(vit: ImageTextModel, resnet: ImageTextModel, tmp_path: Path) -> None:
    metric = QualiCLIP(vit, parts=["*bias"])
    metric.fit(scenes(1), steps=1, crop=32)
    path = metric.save_weights(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="fitted to the model 'vit', not to 'resnet'"):
        QualiCLIP.from_weights(path, resnet)
    with pytest.raises(CheckpointError, match=r"holds weights of 'QualiCLIP', not of CLIP-IQA\+"):
        CLIPIQAPlus.from_weights(path, vit)
    with pytest.raises(UsageError, match="no bundled weights for vit"):
        QualiCLIP.from_weights(None, vit)
    with torch.no_grad():
        next(iter(metric.trained().values())).fill_(float("nan"))
    broken = metric.save_weights(tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        QualiCLIP.from_weights(broken, vit)
    with pytest.raises(UsageError, match="parts 'nothing' matches no parameter"):
        QualiCLIP(vit, parts=["nothing"])
    with pytest.raises(UsageError, match="pairs of texts"):
        QualiCLIP(vit, [("good", "average", "bad")])


@torch.no_grad()
def test_the_authors_file_is_their_tower_and_the_seven_pairs(resnet: ImageTextModel, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    theirs = {
        name: value + 0.05 * torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in resnet.backbone.state_dict().items()
    }
    content = {f"clip_model.{name}": value for name, value in theirs.items()}
    torch.save({**content, "prompts_features": torch.zeros(14, 24)}, tmp_path / "qualiclip.pth")
    metric = QualiCLIP.from_released(tmp_path / "qualiclip.pth", resnet)
    # The tower of the file, used by hand on features without positions.
    copy = resnet.with_copied_visual()
    copy.visual.load_state_dict({n.removeprefix("visual."): v for n, v in theirs.items() if n.startswith("visual.")})
    images = made(2, 3, 70, 90)
    tower = copy.dense_tower
    maps = tower.feature_map(copy.preprocess.normalize(images))  # type: ignore[attr-defined]
    image = F.normalize(tower.attend(maps, positions=False), dim=-1)  # type: ignore[attr-defined]
    texts = resnet.encode_text([text for pair in ANTONYMS for text in pair], normalize=True)
    logits = (float(resnet.scale()) * image @ texts.T).unflatten(1, (7, 2))
    torch.testing.assert_close(metric(images), logits.softmax(-1)[..., 0].mean(1), rtol=1e-4, atol=1e-5)
    for prefix in ("clip_model.visual.conv1.weight", "clip_model.visual.layer1.0.bn1.running_mean"):
        torch.save({name: value for name, value in content.items() if name != prefix}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="does not fit the image tower of QualiCLIP: 1 missing"):
            QualiCLIP.from_released(tmp_path / "w.pth", resnet)
