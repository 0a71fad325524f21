"""A linear probe on the frozen embedding: the baseline that every detector is compared with."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.models.checks import refuse_bare_module
from binderclip.quality.forensics.detector import Detector, DetectorOutput, Parts, PictureEncoder, checked_side
from binderclip.quality.forensics.views import Places, View, seen


class LinearDetector(Detector):
    """Detect generated pictures by a line through the frozen embedding of a model.

    Embeddings are brought to a root mean square of 1, since models differ in their norms.

    Args:
        model: a name or an opened model.
        view: "crop" (the paper's) or "resize".
        side: of the input in pixels; default the model's.

    Raises:
        UsageError: a side that the tower does not take.

    Paper: Towards Universal Fake Image Detectors that Generalize Across Generative Models (arXiv 2302.10174).
    """

    def __init__(self, model: PictureEncoder | str = "small", *, view: View = "crop", side: int | None = None) -> None:
        refuse_bare_module(model, "LinearDetector")
        super().__init__(model, {"view": view, "side": side})
        self.side, self.looks, self.patch = checked_side(side, self.model), view, self.model.image_tower.patch
        self.line = nn.Linear(self.model.image_tower.embed_dim, 1)

    def view(self, images: Float[Tensor, "B 3 H W"], places: Places | None = None) -> Parts:
        """The normalised input of the tower."""
        return (seen(images, self.looks, self.side, self.model.preprocess, places),)

    def features(self, views: Parts) -> Parts:
        """The embedding."""
        raw = self.model.image_tower(views[0]).float()  # (B, E)
        return (functional.normalize(raw, dim=-1) * raw.shape[-1] ** 0.5,)

    def read(self, features: Parts) -> DetectorOutput:
        """One line."""
        return DetectorOutput(self.line(features[0])[:, 0], features[0])

    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(self.read(features).logit, labels)
