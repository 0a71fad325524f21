"""The bundled promptable segmenter behind the common protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.models.image_text.preprocess import ImageLike, Preprocess
from binderclip.segment.promptable.drawn import CORNERS, PromptTokens
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.network import FeaturePyramid, PromptNetwork
from binderclip.segment.promptable.prompts import ImageState, Masks, Prompts

__all__ = ["PromptModel"]

PIXELS = Preprocess(size=(128, 128), resize_mode="squash", interpolation="bilinear")


class PromptModel(nn.Module):
    """`PromptNetwork` for pictures of any size: they are squashed to its square input, as SAM 2 does.

    Args:
        backbone: the network.
        settings: what it was built with, for `save`.
        name: it goes by.
        preprocess: pixels -> input; its size is the network's.
        card: recipe, data and figures.
    """

    differentiable = True
    # Its logits are soft and its predicted IoU is modest: candidates above 0.5 are right by two thirds on average.
    automatic: ClassVar[dict[str, float]] = {
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.6,
        "stability_score_offset": 0.25,
    }

    def __init__(
        self,
        backbone: PromptNetwork,
        *,
        settings: Mapping[str, Any] | None = None,
        name: str = "promptable",
        preprocess: Preprocess = PIXELS,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings, self.name, self.card = dict(settings or {}), name, dict(card or {})
        self.preprocess = preprocess.at(backbone.side)
        self.history: list[str] = []

    @property
    def image_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.backbone.side

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(self, image: ImageLike) -> ImageState:
        """Encode a picture (anything `open_image` takes, or a float tensor (3, H, W) in [0, 1])."""
        picture, (height, width) = as_picture(image)
        levels = self.backbone.encode(self.preprocess(picture).to(self.device))
        return ImageState(levels, (height, width), (self.image_size / width, self.image_size / height))

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """Masks of the prompts; gradients reach points and boxes.

        Args:
            state: of `encode`.
            prompts: P of them, in pixels of the picture.
            multimask: three candidates each (for a single click, which may mean a part or the whole), or one.

        Raises:
            UsageError: a state of another model.
        """
        low, scores = self.predict_low(state, prompts, multimask=multimask)
        return Masks(self.enlarge(low, state), scores, low)

    def predict_low(
        self, state: ImageState, prompts: Prompts, *, multimask: bool = True
    ) -> tuple[Float[Tensor, "P K h w"], Float[Tensor, "P K"]]:
        """Logits at stride 2 and predicted IoU; the encoded picture is shared by all prompts, not copied.

        Raises:
            UsageError: a state of another model.
        """
        if not isinstance(state.features, FeaturePyramid):
            raise UsageError("this ImageState was made by another segmenter; call encode of this one")
        logits, scores = self.backbone.decode(state.features, self._tokens(state, prompts))
        kept = slice(1, None) if multimask else slice(0, 1)
        return logits[:, kept], scores[:, kept]

    def enlarge(self, low: Float[Tensor, "*N h w"], state: ImageState) -> Float[Tensor, "*N H W"]:
        """Logits at the picture's size."""
        flat = low.reshape(-1, 1, *low.shape[-2:])
        full = functional.interpolate(flat, size=state.size, mode="bilinear", align_corners=False)
        return full.view(*low.shape[:-2], *state.size)

    def _tokens(self, state: ImageState, prompts: Prompts) -> PromptTokens:
        """The one place where pixels become the network's [0, 1]."""
        count, (height, width) = len(prompts), state.size
        unit = torch.tensor([width, height], dtype=torch.float32, device=self.device)
        points, labels = [torch.zeros(count, 0, 2, device=self.device)], [torch.zeros(count, 0, device=self.device)]
        if prompts.boxes is not None:
            points.append(prompts.boxes.to(self.device).view(count, 2, 2) / unit)
            labels.append(torch.tensor(CORNERS, device=self.device).expand(count, 2))
        if prompts.points is not None and prompts.labels is not None:
            points.append(prompts.points.to(self.device) / unit)
            labels.append(prompts.labels.to(self.device))
        mask = None
        if prompts.masks is not None:
            side = 4 * self.backbone.grid
            mask = prompts.masks.to(self.device)[:, None].float()
            if mask.shape[-2:] != (side, side):
                mask = functional.interpolate(mask, size=(side, side), mode="bilinear", align_corners=False)
        return PromptTokens(torch.cat(points, 1), torch.cat(labels, 1).long(), mask)

    def save(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> Path:
        """Write a model folder that `load_promptable` opens.

        Raises:
            UsageError: `folder` is a file, or an unknown precision.
        """
        pixels = {key: value for key, value in asdict(self.preprocess).items() if key in ("mean", "std")}
        config = {"network": self.settings, "preprocess": pixels}
        card = {"name": self.name, **self.card}
        return write_folder(
            folder, kind="promptable", config=config, state=self.backbone.state_dict(), card=card, dtype=dtype
        )

    @classmethod
    def open(cls, folder: str | Path, *, name: str | None = None) -> PromptModel:
        """Read a model folder, or the run folder around it.

        Raises:
            CheckpointError: no such folder, another kind of model, or damaged weights.
        """
        read = read_folder(folder, "promptable")
        settings = read.config.get("network", {})
        title = name or str(read.card.get("name", Path(folder).name))

        def opened() -> PromptModel:
            network = PromptNetwork(**settings)
            guarded(lambda: network.load_state_dict(read.state), folder, "this version")
            given: dict[str, Any] = {key: tuple(value) for key, value in read.config.get("preprocess", {}).items()}
            pixels = replace(PIXELS, **given)
            return cls(network, settings=settings, name=title, preprocess=pixels, card=read.card).eval()

        return configured(opened, folder)
