"""Image towers that others fine-tuned, with or without an alpha channel, put into a copy of the model they began as."""

from __future__ import annotations

from pathlib import Path

from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.models.image_text.alpha import AlphaCLIP, add_alpha_channel
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.load import load

__all__ = ["load_alpha_clip", "load_image_tower"]

_SAME = Rename(r"(?:visual\.)?(.*)", r"\1")
_ALPHA = (
    Rename(r"(?:visual\.)?conv1_alpha\.weight", "conv1.alpha_weight"),
    # The authors' attention is a layer of its own, whose projection is a linear layer.
    Rename(r"(?:visual\.)?(.*\.attn\.in_proj)\.(weight|bias)", r"\1_\2"),
    _SAME,
)


def load_image_tower(model: str | ImageTextModel, path: str | Path, *, part: str | None = None) -> ImageTextModel:
    """A model whose image tower has the weights of a file; the text tower and the scale stay as they are.

    For towers that others fine-tuned under the names of OpenAI's CLIP and open_clip, with or without `visual.` before
    them: `model = load_image_tower("open_clip:ViT-B-32-quickgelu/openai", "TeCoAmodel_best.pth.tar",
    part="vision_encoder_state_dict")`. A file of all weights is opened by `load("open_clip:ARCH/FILE")` instead.

    Args:
        model: that the tower began as, by its name or opened; it is not changed.
        path: of the file; nothing in it is run.
        part: the entry that holds the tower, where the file has several.

    Raises:
        CheckpointError: the file cannot be read, or is of another architecture: what is missing, unexpected or of
            another shape is listed.

    Papers: such files go with Understanding Zero-Shot Adversarial Robustness for Large-Scale Models (arXiv 2212.07016).
    """
    own = load(model) if isinstance(model, str) else model
    other = own.with_copied_visual()
    return _filled(other, path, NameTable(f"the image tower of {own.name}", (_SAME,)), part)


def load_alpha_clip(model: str | ImageTextModel, path: str | Path) -> AlphaCLIP:
    """Alpha-CLIP with the weights of its authors, such as `clip_b16_grit20m_fultune_4xe.pth`.

    `load_alpha_clip(...).model.save(FOLDER)` writes a model that every command opens.

    Args:
        model: that the tower began as, by its name or opened: `open_clip:ViT-B-16-quickgelu/openai`,
            `open_clip:ViT-L-14-quickgelu/openai` or `open_clip:ViT-L-14-336-quickgelu/openai`. It is not changed.
        path: of the file; nothing in it is run.

    Raises:
        CheckpointError: as `load_image_tower`; so are files of low-rank adapters, which are not merged.
        NotSupported, UsageError: as `add_alpha_channel`.

    Paper: Alpha-CLIP: A CLIP Model Focusing on Wherever You Want (arXiv 2312.03818).
    """
    own = load(model) if isinstance(model, str) else model
    table = NameTable(f"the image tower of {own.name} with an alpha channel", _ALPHA)
    return AlphaCLIP(_filled(add_alpha_channel(own), path, table, None))


def _filled(model: ImageTextModel, path: str | Path, table: NameTable, part: str | None) -> ImageTextModel:
    copy_renamed(model.visual.state_dict(), read_released(path, part), table, path)
    model.history.append(f"image tower of {Path(path).name}")
    return model
