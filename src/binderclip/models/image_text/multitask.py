"""Light heads on the patch tokens of an image tower, which learn dense tasks beside the contrastive one."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.towers import Tower, open_image_tower

__all__ = ["MultiTaskCLIP"]


class MultiTaskCLIP(nn.Module):
    """A model with a linear head a task on its patch tokens; embeddings are the model's own.

    Heads see the tokens after the final norm, before the projection, and are left behind after training.

    Args:
        model: shared, not copied.
        heads: task -> channels of its prediction: classes, 1 for depth, 3 for normals; or a module from
            (B, D, h, w) to (B, C, h', w').

    Raises:
        UsageError: a number of channels below 1; at a call in training, a tower that drops patches.

    Examples:
        >>> import torch, binderclip
        >>> tasks = MultiTaskCLIP(binderclip.load("small"), {"seg": 5, "depth": 1})
        >>> embedded, outputs = tasks(torch.zeros(2, 3, 128, 128))
        >>> embedded.shape, outputs["seg"].shape
        (torch.Size([2, 384]), torch.Size([2, 5, 128, 128]))

    Paper: Salehi et al., "CLIP meets Model Zoo Experts: Pseudo-Supervision for Visual Enhancement", arXiv 2310.14108.
    """

    def __init__(self, model: ImageTextModel, heads: Mapping[str, int | nn.Module]) -> None:
        refuse_bare_module(model, "MultiTaskCLIP")
        super().__init__()
        width = model.image_tower.width
        if bad := [name for name, head in heads.items() if not isinstance(head, nn.Module) and head < 1]:
            raise UsageError(f"head {bad[0]!r}: a prediction has at least 1 channel, not {heads[bad[0]]}")
        self.model = model
        self.heads = nn.ModuleDict(
            {name: head if isinstance(head, nn.Module) else nn.Conv2d(width, head, 1) for name, head in heads.items()}
        )

    @property
    def tower(self) -> Tower:
        """The image tower, open."""
        return open_image_tower(self.model.backbone)

    def forward(
        self, pixels: Float[Tensor, "B 3 H W"], size: tuple[int, int] | None = None
    ) -> tuple[Float[Tensor, "B E"], dict[str, Float[Tensor, "B _ h w"]]]:
        """Raw embeddings, and each task's predictions, from one pass of the tower.

        Args:
            pixels: normalised, as the model sees them.
            size: (h, w) of the predictions, bilinear; default that of the pictures.
        """
        if not len(self.heads):
            return self.model.encode_pixels(pixels), {}
        tower = self.tower
        tokens = tower.run(tower.embed(pixels))
        grid = tower.grid_of(pixels)
        if tokens.patches.shape[1] != grid[0] * grid[1]:
            raise UsageError("the tower drops patches while it trains; dense heads need all of them")
        maps = tower.norm(tokens.patches).mT.unflatten(2, grid)  # (B, D, h, w)
        size = (int(pixels.shape[2]), int(pixels.shape[3])) if size is None else size
        outputs = {
            name: F.interpolate(head(maps).float(), size, mode="bilinear", align_corners=False)
            for name, head in self.heads.items()
        }
        return tower.project(tower.pool(tokens)), outputs
