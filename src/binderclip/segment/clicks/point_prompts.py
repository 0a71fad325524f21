"""Strategies of point prompts side by side: the IoU that each gets, and which features of its points explain it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.clicks.evaluation import InteractiveEvaluation
from binderclip.segment.clicks.objects import ious
from binderclip.segment.clicks.prompt_statistics import prompt_features
from binderclip.segment.clicks.sampling import INCLUSION, exclusion_points, sample_points
from binderclip.segment.promptable import Masks, PromptableSegmenter, Prompts
from binderclip.settings import check_choice

__all__ = ["ExplainedIoU", "PointPromptTable", "point_prompt_benchmark", "point_prompts"]

Pick = Literal["first", "best"]


@dataclass(frozen=True)
class ExplainedIoU:
    """How well features of prompts predict IoU.

    Attributes:
        r2: of predictions for held-out objects.
        importance: of each feature, in descending order.
    """

    r2: float
    importance: dict[str, float]


@dataclass(frozen=True)
class PointPromptTable:
    """IoU of N objects under S strategies.

    Attributes:
        strategies: S names.
        iou: of each object under each strategy.
        annotator: IoU of a simulated annotator with as many clicks, the best on its way; an upper reference.
        names: of the features.
        features: of each object's points under each strategy.
    """

    strategies: tuple[str, ...]
    iou: Float[np.ndarray, "S N"]
    annotator: Float[np.ndarray, "N"]
    names: tuple[str, ...]
    features: Float[np.ndarray, "S N F"]

    def means(self) -> dict[str, float]:
        """Mean IoU of each strategy and of the annotator."""
        means = {name: float(own.mean()) for name, own in zip(self.strategies, self.iou, strict=True)}
        return {**means, "annotator": float(self.annotator.mean())}

    def explained(
        self, *, folds: int = 5, model: Literal["forest", "linear"] = "forest", seed: int = 0
    ) -> ExplainedIoU:
        """Predict IoU from the features of points by regression, never on objects that it was fitted on.

        Args:
            folds: parts of the objects; prompts of one object stay together.
            model: a random forest, or least squares on standardised features.
            seed: of the forest.

        Raises:
            UsageError: fewer objects than folds.
        """
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.linear_model import LinearRegression
        from sklearn.metrics import r2_score
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        count = self.iou.shape[1]
        if count < folds:
            raise UsageError(f"{count} objects cannot be parted into {folds} folds")
        x, y = self.features.reshape(-1, len(self.names)), self.iou.ravel()
        groups = np.tile(np.arange(count), len(self.strategies))
        forest = RandomForestRegressor(100, min_samples_leaf=5, random_state=seed)
        linear = make_pipeline(StandardScaler(), LinearRegression())
        chosen: Any = forest if model == "forest" else linear
        predicted = cross_val_predict(chosen, x, y, cv=GroupKFold(folds), groups=groups)
        chosen.fit(x, y)
        weights = chosen.feature_importances_ if model == "forest" else np.abs(chosen[-1].coef_)
        order = np.argsort(-weights)
        return ExplainedIoU(float(r2_score(y, predicted)), {self.names[i]: float(weights[i]) for i in order})


def point_prompts(
    image: Float[Tensor, "3 H W"],
    masks: Bool[Tensor, "M H W"],
    strategy: str,
    *,
    inclusion: int = 4,
    exclusion: int = 2,
    seed: int = 0,
) -> Prompts:
    """Points of every object by one strategy, inclusion points first, on the device of the picture.

    Args:
        image: in [0, 1]. masks: of M objects, each with a pixel.
        strategy: of `sample_points`.
        inclusion, exclusion: number of points.
        seed: of the strategy.
    """
    pixels, points = image.permute(1, 2, 0).cpu().numpy(), []
    for number, mask in enumerate(masks.cpu().numpy()):
        inside = sample_points(mask, inclusion, strategy, image=pixels, seed=seed + 2 * number)
        outside = np.zeros((0, 2))
        if exclusion:
            outside = exclusion_points(mask, exclusion, strategy, image=pixels, seed=seed + 2 * number + 1)
        points.append(np.concatenate([inside, outside]))
    labels = torch.tensor([1] * inclusion + [0] * exclusion, device=image.device)
    at = torch.tensor(np.stack(points), dtype=torch.float32, device=image.device)
    return Prompts(at, labels.expand(len(at), -1))


@torch.no_grad()
def point_prompt_benchmark(
    segmenter: PromptableSegmenter,
    samples: Iterable[tuple[Float[Tensor, "3 H W"], Bool[Tensor, "M H W"]]],
    *,
    strategies: Sequence[str] = tuple(INCLUSION),
    inclusion: int = 4,
    exclusion: int = 2,
    pick: Pick = "first",
    seed: int = 0,
) -> PointPromptTable:
    """Ask a segmenter for every object with the points of every strategy.

    Args:
        segmenter: any promptable one.
        samples: (picture in [0, 1], masks of its objects); masks without a pixel are left out.
        strategies: of `sample_points`; exclusion points come from the rest of the picture by the same one.
        inclusion, exclusion: number of points.
        pick: of the three candidates the first, as the paper does, or the one with the highest predicted IoU.
        seed: of the strategies.

    Raises:
        UsageError: an unknown strategy, no object, or no inclusion point.

    Paper: Benchmarking Human and Automated Prompting in the Segment Anything Model (arXiv 2410.22048).
    """
    check_choice("pick", pick, ("first", "best"))
    scores: dict[str, list[Any]] = {name: [] for name in strategies}
    features: dict[str, list[dict[str, float]]] = {name: [] for name in strategies}
    annotator = []
    for number, (image, masks) in enumerate(samples):
        masks = masks[masks.flatten(1).any(1)].bool()
        if not len(masks):
            continue
        state = segmenter.encode(image)
        for name in strategies:
            prompts = point_prompts(
                image, masks, name, inclusion=inclusion, exclusion=exclusion, seed=seed + 1000 * number
            )  # fmt: skip
            picked = _picked(segmenter.predict(state, prompts), pick).cpu()
            scores[name].append(ious(picked, masks.cpu()).numpy())
            assert prompts.points is not None
            features[name] += [
                prompt_features(p[:inclusion], p[inclusion:], m)
                for p, m in zip(prompts.points.double().cpu().numpy(), masks.cpu().numpy(), strict=True)
            ]
        evaluation = InteractiveEvaluation(segmenter, max_clicks=inclusion + exclusion)
        annotator.append(evaluation([(image, masks)]).iou.amax(1).cpu().numpy())
    if not annotator:
        raise UsageError("there is no object with pixels")
    names = tuple(features[strategies[0]][0])
    table = [[[own[name] for name in names] for own in features[strategy]] for strategy in strategies]
    iou = np.stack([np.concatenate(scores[name]) for name in strategies])
    return PointPromptTable(tuple(strategies), iou, np.concatenate(annotator), names, np.array(table))


def _picked(masks: Masks, pick: Pick) -> Bool[Tensor, "M H W"]:
    return (masks.logits[:, 0] if pick == "first" else masks.pick().logits[:, 0]) > 0
