"""Panoptic patch learning: a detector that is made to use every patch of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.losses import PatchContrastive
from binderclip.models.checks import refuse_bare_module
from binderclip.quality.forensics.adapted_tower import AdaptedDetector
from binderclip.quality.forensics.detector import DetectorOutput, Parts, PictureEncoder, Sampling
from binderclip.quality.forensics.views import View


class PanopticPatchDetector(AdaptedDetector):
    """Detect generated pictures by a tower that has learned from pictures with exchanged patches.

    Half of a training batch are pictures in which random patches come from the real picture and the others from its
    generated copy (`data.RandomPatchReplacement`); a contrastive loss gives every patch token the direction that tells
    the two apart (`losses.PatchContrastive`), so no few conspicuous patches suffice.
    loss = contrast * patch contrast + (1 - contrast) * binary cross-entropy of the picture.

    Args:
        model: a name or an opened model, which is copied.
        view: "crop" (the paper's) or "resize".
        side: of the input in pixels; default the model's.
        contrast: lambda, the weight of the patch loss; 0 leaves it out. Default 0.3.
        margin: of the squared distance of two patches of different labels. Default 1.
        sample: most patches of a batch that are compared.
        width: of the projected patch tokens.
        r, lora_alpha, target_modules, blocks: of the adapters, see `models.lora_`. The paper does not state its rank.

    Raises:
        UsageError: a weight outside [0, 1], a side that the tower does not take, or settings of the adapters.

    Paper: All Patches Matter, More Patches Better: Enhance AI-Generated Image Detection via Panoptic Patch Learning
    (arXiv 2504.01396).

    Examples:
        >>> detector = PanopticPatchDetector("small")  # doctest: +SKIP
        >>> train_detector(detector, real_fake_folder("pictures"), steps=200)  # doctest: +SKIP
        >>> detector(images).diff()  # above 0: generated  # doctest: +SKIP
    """

    sampling: ClassVar[Sampling] = "mixed"

    def __init__(
        self,
        model: PictureEncoder | str = "small",
        *,
        view: View = "crop",
        side: int | None = None,
        contrast: float = 0.3,
        margin: float = 1.0,
        sample: int = 256,
        width: int = 128,
        r: int = 8,
        lora_alpha: float = 16.0,
        target_modules: Sequence[str] = ("q", "v"),
        blocks: int | Sequence[int] | None = None,
    ) -> None:
        refuse_bare_module(model, "PanopticPatchDetector")
        if not 0 <= contrast <= 1:
            raise UsageError(f"contrast {contrast} is a share of the loss: 0 to 1")
        settings = {
            "view": view, "side": side, "contrast": contrast, "margin": margin, "sample": sample, "width": width,
            "r": r, "lora_alpha": lora_alpha, "target_modules": list(target_modules), "blocks": blocks,
        }  # fmt: skip
        super().__init__(
            model, settings, view=view, side=side, r=r, lora_alpha=lora_alpha, lora_dropout=0.0,
            target_modules=target_modules, blocks=blocks,
        )  # fmt: skip
        self.contrast = contrast
        self.patch_loss = PatchContrastive(margin, sample=sample)
        self.line = nn.Linear(self.tower.width, 1)
        self.project = nn.Linear(self.tower.width, width)

    def read(self, features: Parts) -> DetectorOutput:
        """The logit of the pooled vector z, and the projected patch tokens h_1..h_N."""
        after = self.tower.run(self.tokens(features), start=self.first)
        z = self.tower.pool(after)  # (B, D)
        h = self.project(self.tower.norm(after.patches))  # (B, N, width)
        return DetectorOutput(self.line(z)[:, 0], z, h)

    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """(1 - lambda) binary cross-entropy + lambda patch contrast; patches without labels have the picture's."""
        readout = self.read(features)
        image_loss = functional.binary_cross_entropy_with_logits(readout.logit, labels)
        if not self.contrast:
            return image_loss
        h = readout.tokens
        assert h is not None
        each = labels[:, None].expand(h.shape[:2]) if patch_labels is None else patch_labels
        patch_loss = self.patch_loss(h.flatten(0, 1), each.flatten())
        return self.contrast * patch_loss + (1 - self.contrast) * image_loss
