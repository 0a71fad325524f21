"""The methods of this room by name, as `--method` and `compare` know them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.explain.gradient.full_gradient import FullGrad
from binderclip.explain.gradient.gradcam import GradCAM
from binderclip.explain.gradient.gradcam_plus_plus import GradCAMPlusPlus, SmoothGradCAMPlusPlus
from binderclip.explain.gradient.gradients import InputXGradient, IntegratedGradients, SmoothGrad
from binderclip.explain.gradient.normgrad import NormGrad
from binderclip.explain.gradient.saliency import Saliency
from binderclip.explain.mask.methods import CartoonX, PixelMask, ShearletX, WaveletX
from binderclip.explain.transformer.eclip import GradECLIP, MedGradECLIP
from binderclip.explain.transformer.rollout import AttentionRollout
from binderclip.explain.words.concept_map import ConceptMap

METHODS: dict[str, Callable[..., Any]] = {
    "cartoonx": CartoonX,
    "concepts": ConceptMap,
    "fullgrad": FullGrad,
    "gradcam": GradCAM,
    "gradcampp": GradCAMPlusPlus,
    "gradeclip": GradECLIP,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "medgradeclip": MedGradECLIP,
    "normgrad": NormGrad,
    "pixelmask": PixelMask,
    "rollout": AttentionRollout,
    "saliency": Saliency,
    "shearletx": ShearletX,
    "smoothgrad": SmoothGrad,
    "smoothgrad_squared": partial(SmoothGrad, statistic="mean-square"),
    "smoothgradcampp": SmoothGradCAMPlusPlus,
    "vargrad": partial(SmoothGrad, statistic="variance"),
    "waveletx": WaveletX,
}
