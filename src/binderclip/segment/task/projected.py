"""SLIP's heads: projections behind the towers of an image-text model, tuned on the pictures and names of a niche."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.files import make_folder, write_whole
from binderclip.models.checks import refuse_bare_module

__all__ = ["ProjectedModel", "ResidualHead"]

FILE = "heads.safetensors"


class ResidualHead(nn.Module):
    """SLIP's projection head: y = LayerNorm(W2 gelu(p) + b2 + p), p = W1 x + b1.

    Args:
        width: of its input.
        out: of its output; the paper's is 128 for towers tuned on a niche.

    Raises:
        UsageError: a width below 1.

    Paper: Zero Shot Context-Based Object Segmentation using SLIP (SAM+CLIP) (arXiv 2405.07284).
    """

    def __init__(self, width: int, out: int = 128) -> None:
        super().__init__()
        if min(width, out) < 1:
            raise UsageError(f"the widths of a head must be at least 1, got {width} and {out}")
        self.project, self.refine, self.norm = nn.Linear(width, out), nn.Linear(out, out), nn.LayerNorm(out)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Features to embeddings."""
        p = self.project(x)
        return self.norm(self.refine(nn.functional.gelu(p)) + p)


@dataclass(frozen=True)
class ProjectedWords:
    """Embeddings of words, one row each, as `TextBank` gives its own."""

    rows: Float[Tensor, "Q E"]

    def prototypes(self) -> Float[Tensor, "Q E"]:
        """The rows."""
        return self.rows


class ProjectedModel:
    """An image-text model with a head behind each tower, which `segment.task.region_retrieval` takes in its place.

    Heads see features of length one. The recipe `slip-head` trains and saves them.

    Args:
        model: an `ImageTextModel`, which stays as it is.
        image, text: the heads.
    """

    def __init__(self, model: Any, image: ResidualHead, text: ResidualHead) -> None:
        refuse_bare_module(model, "ProjectedModel")
        self.model, self.image, self.text, self.image_size = model, image, text, model.image_size

    @torch.no_grad()
    def encode_image(self, images: Any) -> Float[Tensor, "B E"]:
        """Embeddings of pictures, as `ImageTextModel.encode_image` takes them."""
        return self.image(self.model.encode_image(images, normalize=True).float())

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "Q E"]:
        """Embeddings of texts."""
        return self.text(self.model.encode_text(list(texts), normalize=True).float())

    def text_bank(self, words: Sequence[str]) -> ProjectedWords:
        """Embeddings of words, as choosers of masks ask for them."""
        return ProjectedWords(self.encode_text(words))

    def save(self, folder: str | Path) -> Path:
        """Write both heads into a folder as `heads.safetensors`; the model is not written."""
        from safetensors.torch import save_file

        parts = nn.ModuleDict({"image": self.image, "text": self.text})
        state = {name: value.contiguous() for name, value in parts.state_dict().items()}
        where = make_folder(Path(folder)) / FILE
        write_whole(where, lambda draft: save_file(state, draft))
        return where

    @classmethod
    def open(cls, folder: str | Path, model: Any) -> ProjectedModel:
        """Heads that `save` wrote, behind the model that they were trained on.

        Args:
            folder: with `heads.safetensors`.
            model: an `ImageTextModel`.

        Raises:
            CheckpointError: no such file, one that cannot be read, or heads of another width than the model's features.
        """
        refuse_bare_module(model, "ProjectedModel.open")
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path, heads = Path(folder) / FILE, {}
        try:
            state = load_file(path)
            for side in ("image", "text"):
                own = {name.removeprefix(f"{side}."): v for name, v in state.items() if name.startswith(f"{side}.")}
                out, width = own["project.weight"].shape
                heads[side] = ResidualHead(width, out).eval()
                heads[side].load_state_dict(own)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: no heads of a ProjectedModel: {error}") from error
        if width != model.embed_dim:
            raise CheckpointError(f"{path}: heads of {width} features, and {model.name} has {model.embed_dim}")
        device = model.device
        return cls(model, heads["image"].to(device), heads["text"].to(device))
