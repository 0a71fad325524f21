"""SAM, SAM 2 and SAM 3 of transformers behind the common protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.errors import NotSupported, UsageError, require
from binderclip.models.files.checkpoint import check_weights_finite, guarded
from binderclip.models.image_text.hf import check_folder, local_first
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.prompts import ImageState, Masks, Prompts

__all__ = ["HfSegmenter", "load_hf_promptable"]

KINDS = {
    "sam": ("SamModel", "SamProcessor"),
    "sam2": ("Sam2Model", "Sam2Processor"),
    "sam3_tracker": ("Sam3TrackerModel", "Sam3TrackerProcessor"),
}
# What published SAM 2 and SAM 3 checkpoints call themselves.
KINDS |= {"sam2_video": KINDS["sam2"], "sam3_video": KINDS["sam3_tracker"]}
IGNORED = -10  # the library's label for a point that is none


class HfSegmenter:
    """`transformers.SamModel`, `Sam2Model` or `Sam3TrackerModel` (SAM 3 by clicks) with its processor.

    Coordinates are handed over as they are, so the same numbers give what the library's own processor gives: SAM puts
    half an input pixel on every coordinate itself.

    Args:
        model: the library's model.
        processor: the library's processor; only its image processor is used.
        name: it goes by.

    Raises:
        NotSupported: another class of model.
    """

    differentiable = True

    def __init__(self, model: Any, processor: Any, *, name: str = "hf") -> None:
        kind = model.config.model_type
        if kind not in KINDS:
            raise NotSupported(f"a {kind!r} model is not supported; supported: SamModel, Sam2Model, Sam3TrackerModel")
        self.model, self.name = model.eval(), name
        self.squash = KINDS[kind][0] != "SamModel"
        self.images = getattr(processor, "image_processor", processor)
        size = self.images.size
        self.image_size = int(size["height"] if self.squash else size["longest_edge"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def encode(self, image: ImageLike) -> ImageState:
        """Encode a picture; float tensors are rounded to the 8 bits that the library's image processor reads."""
        pixels, (height, width) = self.inputs(image)
        features = self.model.get_image_embeddings(pixels)
        h, w = (self.image_size, self.image_size) if self.squash else self.resized(height, width)
        return ImageState(features, (height, width), (w / width, h / height))

    def inputs(self, image: ImageLike) -> tuple[Float[Tensor, "1 3 S S"], tuple[int, int]]:
        """What the model is given, and the (h, w) of the picture."""
        picture, (height, width) = as_picture(image)
        if isinstance(picture, Tensor):
            pixels = (picture[0].detach().permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            picture = Image.fromarray(np.ascontiguousarray(pixels))
        processed = self.images(picture, return_tensors="pt")["pixel_values"]
        return processed.to(self.device, self.model.dtype), (height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of a picture inside SAM's padded square."""
        factor = self.image_size / max(height, width)
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """Masks of the prompts; gradients reach points and boxes.

        Args:
            state: of `encode`.
            prompts: P of them, in pixels of the picture.
            multimask: three candidates each, or one.
        """
        low, scores = self.predict_low(state, prompts, multimask=multimask)
        return Masks(self.enlarge(low, state), scores, low)

    def predict_low(
        self, state: ImageState, prompts: Prompts, *, multimask: bool = True
    ) -> tuple[Float[Tensor, "P K h w"], Float[Tensor, "P K"]]:
        """Logits in the decoder's frame and predicted IoU."""
        scale = torch.tensor(state.scale, device=self.device)
        inputs: dict[str, Any] = {}
        if prompts.points is not None and prompts.labels is not None:
            inputs["input_points"] = (prompts.points.to(self.device) * scale)[None]
            labels = prompts.labels.to(self.device)
            inputs["input_labels"] = torch.where(labels < 0, IGNORED, labels)[None]
        if prompts.boxes is not None:
            inputs["input_boxes"] = (prompts.boxes.to(self.device) * scale.repeat(2))[None]
        if prompts.masks is None:
            return self._run(state, inputs, multimask)
        else:
            # The library takes one mask for the whole image, so prompts with masks go one by one.
            size = [4 * int(v) for v in self.model.prompt_encoder.image_embedding_size]
            masks = functional.interpolate(prompts.masks[:, None].to(self.device), size=size, mode="bilinear")
            parts = []
            for i, mask in enumerate(masks):
                one = {key: value[:, i : i + 1] for key, value in inputs.items()}
                parts.append(self._run(state, one | {"input_masks": mask[None]}, multimask))
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _run(self, state: ImageState, inputs: dict[str, Any], multimask: bool) -> tuple[Tensor, Tensor]:
        out = self.model(image_embeddings=state.features, multimask_output=multimask, **inputs)
        return out.pred_masks[0].float(), out.iou_scores[0].float()

    def enlarge(self, low: Float[Tensor, "*N h w"], state: ImageState) -> Float[Tensor, "*N H W"]:
        """Logits at the picture's size: SAM's by way of its padded square, as the library does."""
        flat = low.reshape(-1, 1, *low.shape[-2:])
        if not self.squash:
            square = (self.image_size, self.image_size)
            flat = functional.interpolate(flat, size=square, mode="bilinear", align_corners=False)
            h, w = self.resized(*state.size)
            flat = flat[..., :h, :w]
        full = functional.interpolate(flat, size=state.size, mode="bilinear", align_corners=False)
        return full.view(*low.shape[:-2], *state.size)


def load_hf_promptable(source: str, name: str) -> HfSegmenter:
    """A SAM, SAM 2 or SAM 3 checkpoint of the Hugging Face hub, or a folder in its format; safetensors alone are read.

    Args:
        source: `ORG/REPO` or a folder.
        name: as the user wrote it.

    Raises:
        UsageError: an empty name.
        CheckpointError: not on this machine and not to be had, or damaged.
        NotSupported: another kind of model.
        MissingDependency: without transformers.
    """
    if not source:
        raise UsageError("hf: needs a repository or a folder: hf:facebook/sam-vit-base, hf:./my-sam")
    transformers: Any = require("transformers", "hf")
    if Path(source).is_dir():
        check_folder(Path(source))
    config, local = local_first(lambda **o: transformers.AutoConfig.from_pretrained(source, **o), source, name)
    if config.model_type not in KINDS:
        raise NotSupported(f"{name} is a {config.model_type!r} model; supported are {', '.join(KINDS)}")
    model_class, processor_class = KINDS[config.model_type]
    if not hasattr(transformers, model_class):
        raise NotSupported(f"{name} needs a newer transformers: {transformers.__version__} has no {model_class}")
    where = {"local_files_only": True} if local else {}

    def read() -> tuple[Any, Any]:
        model = getattr(transformers, model_class).from_pretrained(
            source, weights_only=True, use_safetensors=True, **where
        )
        return model, getattr(transformers, processor_class).from_pretrained(source, **where)

    model, processor = guarded(read, name, model_class)
    check_weights_finite(model.state_dict(), name)
    return HfSegmenter(model, processor, name=name)
