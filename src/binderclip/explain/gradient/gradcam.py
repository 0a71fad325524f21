"""Grad-CAM: feature maps weighted by their channels' mean gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from binderclip.explain.engine.attribute import Plan, PlanMethod, pooled_gradient_times_value, signal_plan
from binderclip.explain.engine.places import Layer


@dataclass(frozen=True)
class GradCAM(PlanMethod):
    """`relu(sum_k w_k A_k)` with `w_k` the spatial mean of `dS/dA_k`: which places hold features that raise the score.

    Coarse (one value a cell of the last feature map) but specific to the target. For transformer towers the feature
    map is the patch tokens after the first norm of the last block, through which they reach the class token.

    Args:
        layer: None for the last spatial layer; a block index of an image-text model's tower; a submodule or its
            name; or several, whose maps are summed.
        signed: keep negative evidence instead of cutting it off.

    Raises:
        UsageError: when called, a layer that does not exist or has no spatial extent; see `attribute`.
        NotSupported: no spatial layer can be found.

    Paper: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization
    (arXiv 1610.02391).
    """

    layer: Layer | Sequence[Layer] | None = None
    signed: bool = False

    def plan(self) -> Plan:
        """What it asks of a pass, to be shared with other methods."""
        return signal_plan(
            pooled_gradient_times_value,
            layers=self.layer,
            reduce="sum",
            finish="signed" if self.signed else "relu",
            method="gradcam",
        )
