"""What others trained on a model: its image tower, with or without an alpha channel, and the context of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.models.image_text.alpha import AlphaCLIP, add_alpha_channel
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.loading import load
from binderclip.models.text.prompts import Position, PromptContext

__all__ = ["load_alpha_clip", "load_image_tower", "load_prompt_context"]

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
    refuse_bare_module(model, "load_image_tower")
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
    refuse_bare_module(model, "load_alpha_clip")
    own = load(model) if isinstance(model, str) else model
    table = NameTable(f"the image tower of {own.name} with an alpha channel", _ALPHA)
    return AlphaCLIP(_filled(add_alpha_channel(own), path, table, None))


def _filled(model: ImageTextModel, path: str | Path, table: NameTable, part: str | None) -> ImageTextModel:
    copy_renamed(model.visual.state_dict(), read_released(path, part), table, path)
    model.history.append(f"image tower of {Path(path).name}")
    return model


def load_prompt_context(
    path: str | Path, model: ImageTextModel, class_names: Sequence[str], *, position: Position = "end"
) -> PromptContext:
    """Prompts with the context that CoOp, ProGrad, CLIP-IQA+ or another program of their kind learned.

    Of a file the tensor `ctx` is read, (M, D) or (C, M, D), with whatever stands before its name; the vectors of the
    class names beside it are made anew, as those programs do.

    Args:
        path: of the file (`model.pth.tar-50`); nothing in it is run.
        model: whose text tower it was learned on.
        class_names: as `PromptContext` takes them; of an own context for each class those it was learned for, in their
            order.
        position: of the names, as it was in training.

    Raises:
        CheckpointError: the file cannot be read, holds no context or several, or one for another text tower.
        UsageError: as `PromptContext`; also names that are not one for each context.

    Paper: Learning to Prompt for Vision-Language Models (arXiv 2109.01134).
    """
    refuse_bare_module(model, "load_prompt_context")
    context = _released_context(path)
    if context.shape[-1] != model.text_tower.width:
        raise CheckpointError(
            f"{path} holds a context of width {context.shape[-1]}, and the words of {model.name} have "
            f"{model.text_tower.width}: it was learned on another model"
        )
    specific = context.ndim == 4
    if specific and context.shape[1] != len(class_names):
        raise UsageError(f"{path} holds contexts of {context.shape[1]} classes, and {len(class_names)} are named")
    prompts = PromptContext(model, class_names, n_ctx=context.shape[-2], position=position, class_specific=specific)
    return prompts.load(context.to(prompts.weight))


def _released_context(path: str | Path) -> Float[Tensor, "1 *C M D"]:
    """The context in a file of others."""
    state = read_released(path)
    names = [name for name in state if name.rpartition(".")[2] == "ctx"]
    if len(names) != 1 or state[names[0]].ndim not in (2, 3):
        held = ", ".join(names) or ", ".join(list(state)[:3]) + ", ..."
        raise CheckpointError(f"{path} must hold one context `ctx` of shape (M, D) or (C, M, D), and has {held}")
    return state[names[0]].float()[None]
