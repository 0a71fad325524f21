"""`from_module(module)`: a network that is in memory already, of open_clip, of transformers or of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import class_in_words, library_of
from binderclip.models.files.checkpoint import check_weights_finite, first_words
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import Interpolation, Preprocess
from binderclip.models.text.tokenize import FunctionTokenizer, Tokenizer, TransformersTokenizer
from binderclip.settings import brief

if TYPE_CHECKING:
    from binderclip.models.towers import Tower

__all__ = ["OwnModule", "from_module"]

BYTE_PAIRS = 49408
"""Ids of the byte-pair tokenizer of the original CLIP, which all open_clip architectures of that many ids take."""
LONGEST = 10_000
"""Tokenizers of transformers say 10 ** 30 where they know no greatest length."""
TO_TENSOR = ("MaybeConvertMode", "MaybeToTensor", "ToTensor", "PILToTensor", "ToImage")
"""Steps of a transform that make a picture RGB, or a tensor of it."""
GEOMETRY = ("Resize", "ResizeKeepRatio", "CenterCrop", "CenterCropOrPad", "Normalize")
"""Steps of it that are read."""


class OwnModule(ImageTextModel):
    """An `ImageTextModel` around a network whose inside is not known: it encodes, and its pixels have gradients."""

    def _refuse(self, what: str) -> NotSupported:
        return NotSupported(
            f"{what}: {self.name} is {class_in_words(self.backbone)}, of which encode_image and encode_text alone are "
            "known. What calls the model works (features, zero-shot, gradients of pixels); its inside opens for "
            "models of open_clip and transformers"
        )

    @property
    def image_tower(self) -> Tower:
        """Refused: blocks and attention of an unknown network are not known."""
        raise self._refuse("the image tower cannot be opened")

    @property
    def dense_tower(self) -> Tower:
        """Refused, as `image_tower`."""
        raise self._refuse("the image tower cannot be opened")

    @property
    def text_tower(self) -> Any:
        """Refused, as `image_tower`."""
        raise self._refuse("the text tower cannot be opened")

    @property
    def logit_scale(self) -> Tensor:
        """The network's own `logit_scale`.

        Raises:
            NotSupported: it has none.
        """
        scale = getattr(self.backbone, "logit_scale", None)
        if scale is None:
            raise NotSupported(
                f"{self.name} has no logit_scale, by which cosines become logits: set module.logit_scale = "
                "torch.tensor(math.log(F)), F the factor it was trained with (100 for CLIP)"
            )
        return scale


def from_module(
    module: nn.Module,
    *,
    preprocess: Preprocess | Mapping[str, Any] | Any | None = None,
    tokenizer: Tokenizer | Callable[[list[str]], Any] | str | Path | Any | None = None,
    name: str | None = None,
) -> ImageTextModel:
    """Wrap a network that is in memory, so that every function here takes it; its weights are shared, not copied.

    It stays on its device and in its precision, and is put in eval mode, as `load` does: call `module.train()` before
    you train on.

    Args:
        module: one of

            - open_clip's `CLIP`, `CustomTextCLIP` or `CoCa`;
            - transformers' CLIPModel, MetaClip2Model, ChineseCLIPModel, AltCLIPModel or SiglipModel;
            - a network with `encode_image(pixels)`, normalised (B, 3, h, w) -> (B, E), and `encode_text(ids)`, (Q, L)
              integers -> (Q, E); its `logit_scale` (log of the factor on cosines) and `logit_bias` are taken over. Its
              inside is not known: attention, adapters in its blocks and `save` are refused.
        preprocess: a `Preprocess`, or a `preprocess_cfg` of open_clip; also open_clip's transform for inference, or a
            processor of transformers, which brings its tokenizer. Default, for open_clip, what the model itself says.
        tokenizer: one of ours or of open_clip or transformers, the name of an open_clip architecture whose tokenizer it
            is, the folder of a `tokenizer.json`, or a function: texts -> (Q, L) ids. Default, for open_clip's models of
            49,408 ids, the byte-pair tokenizer of CLIP.
        name: it goes by; default its class.

    Raises:
        UsageError: something is missing or of another kind, or features are no (B, E) of one width.
        NotSupported: a class or transform that cannot be wrapped.
        CheckpointError: weights that are NaN or infinite.
    """
    _check_module(module)
    name = name or type(module).__name__
    check_weights_finite(module.state_dict(), name)
    library = library_of(module)
    own = all(callable(getattr(module, part, None)) for part in ("encode_image", "encode_text"))
    if library == "transformers" and not own:
        model = _of_transformers(module, preprocess, tokenizer, name)
    elif library == "open_clip" and all(hasattr(module, part) for part in ("visual", "encode_text", "logit_scale")):
        model = _of_open_clip(module, preprocess, tokenizer, name)
    elif own:
        model = _of_own(module, preprocess, tokenizer, name)
    else:
        raise UsageError(
            f"{class_in_words(module)} has no encode_image(pixels) and encode_text(ids), and an image-text model needs "
            "both (binderclip.models.classifier wraps a network from pixels to logits)"
        )
    return model.eval()


def _check_module(module: object) -> None:
    if isinstance(module, ImageTextModel):
        raise UsageError(f"{module.name} is an ImageTextModel already: give it as it is")
    if not isinstance(module, nn.Module):
        raise UsageError(f"module must be a torch.nn.Module, not {brief(module)}; `load` opens names and paths")
    inner = "module" if hasattr(module, "module") and "Parallel" in type(module).__name__ else "_orig_mod"
    if hasattr(module, inner):
        raise UsageError(f"{type(module).__name__} is a wrapper: give the module inside it, module.{inner}")
    if next(module.parameters(), None) is None:
        raise UsageError(f"{class_in_words(module)} has no parameters")


# -- open_clip -----------------------------------------------------------------------------------------------------


def _of_open_clip(module: Any, preprocess: Any, tokenizer: Any, name: str) -> ImageTextModel:
    visual = module.visual
    size = getattr(visual, "image_size", None)
    if preprocess is None:
        preprocess = getattr(visual, "preprocess_cfg", None)
        if preprocess is None:
            raise UsageError(
                f"{name} does not say how its pictures are normalised (visual.preprocess_cfg): give preprocess=, the "
                "transform that open_clip.create_model_and_transforms gave, or a binderclip.models.Preprocess"
            )
        steps = Preprocess.from_open_clip(preprocess).at(size)
    else:
        steps = _steps(preprocess, name)
    side = (size, size) if isinstance(size, int) else None if size is None else tuple(size)
    if side is not None and steps.size != side:
        raise UsageError(f"preprocess gives {_times(steps.size)} pixels, and {name} takes {_times(side)}")
    text = getattr(module, "text", module)
    length = int(getattr(text, "context_length", None) or module.context_length)
    if tokenizer is None:
        if getattr(text, "vocab_size", None) != BYTE_PAIRS:
            raise UsageError(
                f"{name} does not say which tokenizer it takes: give tokenizer=, the name of its architecture or what "
                "open_clip.get_tokenizer(ARCHITECTURE) gives"
            )
        tokenizer = "ViT-B-32"
    return ImageTextModel(
        module,
        kind="open_clip",
        name=name,
        preprocess=steps,
        tokenizer=_tokenizer(tokenizer, length, name),
        card={"summary": f"{class_in_words(module)} that was in memory"},
    )


# -- transformers --------------------------------------------------------------------------------------------------


def _of_transformers(module: Any, preprocess: Any, tokenizer: Any, name: str) -> ImageTextModel:
    from binderclip.models.image_text.hf import KINDS, preprocess_of, tokenizer_for

    config = module.config
    kind, class_name = KINDS.get(config.model_type, (None, ""))
    if kind is None or class_name not in {base.__name__ for base in type(module).__mro__}:
        known = ", ".join(each for _, each in KINDS.values())
        raise NotSupported(f"{class_in_words(module)} is none of the image-text models known here: {known}")
    if tokenizer is None:
        tokenizer = getattr(preprocess, "tokenizer", None)
    processor = getattr(preprocess, "image_processor", preprocess)
    missing = [label for label, part in (("preprocess", preprocess), ("tokenizer", tokenizer)) if part is None]
    if missing:
        raise UsageError(
            f"{name} needs {' and '.join(f'{label}=' for label in missing)}: its processor brings both, "
            "preprocess=AutoProcessor.from_pretrained(REPO_OR_FOLDER)"
        )
    if hasattr(processor, "image_mean"):
        steps = preprocess_of(processor, int(config.vision_config.image_size), name)
    else:
        steps = _steps(preprocess, name)
    if hasattr(tokenizer, "convert_tokens_to_ids"):
        tokenizer = tokenizer_for(tokenizer, config)
    return ImageTextModel(
        module,
        kind=kind,
        name=name,
        preprocess=steps,
        tokenizer=_tokenizer(tokenizer, int(config.text_config.max_position_embeddings), name),
        card={"summary": f"{class_in_words(module)} that was in memory"},
    )


# -- the user's own ------------------------------------------------------------------------------------------------


def _of_own(module: Any, preprocess: Any, tokenizer: Any, name: str) -> ImageTextModel:
    if preprocess is None or tokenizer is None:
        raise UsageError(
            f"{class_in_words(module)} needs preprocess= (how pictures become its input: "
            "binderclip.models.Preprocess(size=(h, w), mean=..., std=...)) and tokenizer= (texts -> (Q, L) ids)"
        )
    for part in ("logit_scale", "logit_bias"):
        value = getattr(module, part, None)
        if value is not None and not (isinstance(value, Tensor) and value.numel() == 1):
            raise UsageError(f"{name}.{part} must be a tensor of one number, not {brief(value)}")
    length = getattr(module, "context_length", 0)
    model = OwnModule(
        module,
        kind="module",
        name=name,
        preprocess=_steps(preprocess, name),
        tokenizer=_tokenizer(tokenizer, length if isinstance(length, int) else 0, name),
        card={"summary": f"{class_in_words(module)} that was in memory"},
    ).eval()
    _try(model)
    return model


@torch.no_grad()
def _try(model: OwnModule) -> None:
    """Encode a black picture and a text, so that what does not fit is said before any work."""
    pixels = model.preprocess.normalize(torch.zeros(1, 3, *model.preprocess.size))
    image = _tried(lambda: model.encode_pixels(pixels), "encode_image", f"a picture of {_times(model.preprocess.size)}")
    text = _tried(lambda: model.encode_text("a"), "encode_text", "the ids of one text")
    if image.shape != text.shape:
        raise UsageError(
            f"{model.name} gives features of {image.shape[1]} numbers for pictures and of {text.shape[1]} for texts: "
            "both must lie in one space"
        )


def _tried(encode: Callable[[], Any], function: str, given: str) -> Tensor:
    wants = "one row of features, a floating-point tensor (1, E)"
    try:
        features = encode()
    except (UsageError, NotSupported):
        raise
    except Exception as error:  # the user's code raises whatever it stumbles over
        raise UsageError(f"{function} failed on {given}: {type(error).__name__}: {first_words(error)}") from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1 or not features.is_floating_point():
        shape = f"{features.dtype} {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise UsageError(f"{function} must give {wants} for {given}, not {shape}")
    return features


# -- parts ---------------------------------------------------------------------------------------------------------


def _steps(preprocess: Any, name: str) -> Preprocess:
    if isinstance(preprocess, Preprocess):
        return preprocess
    if isinstance(preprocess, Mapping):
        return Preprocess.from_open_clip(preprocess)
    processor = getattr(preprocess, "image_processor", preprocess)
    if hasattr(processor, "image_mean"):
        from binderclip.models.image_text.hf import preprocess_of

        return preprocess_of(processor, 0, name)
    if isinstance(getattr(preprocess, "transforms", None), Sequence):
        return _steps_of_transform(list(preprocess.transforms))
    raise UsageError(
        f"preprocess must be a binderclip.models.Preprocess, open_clip's transform or a processor of transformers, not "
        f"{brief(preprocess)}"
    )


def _steps_of_transform(transforms: list[Any]) -> Preprocess:
    """The steps of a torchvision `Compose` as open_clip makes it for inference: resize, crop or pad, normalise."""
    known = {type(transform).__name__: transform for transform in transforms}
    resize = known.pop("Resize", None) or known.pop("ResizeKeepRatio", None)
    crop = known.pop("CenterCrop", None) or known.pop("CenterCropOrPad", None)
    normalize = known.pop("Normalize", None)
    # Any other function, or a step that comes twice, might change the values, and nothing would say so.
    unknown = [
        each for each in transforms if type(each).__name__ not in (*TO_TENSOR, *GEOMETRY) and not _makes_rgb(each)
    ]
    read = [type(each).__name__ for each in transforms if type(each).__name__ in GEOMETRY]
    if resize is None or normalize is None or unknown or len(set(read)) < len(read):
        steps = ", ".join(type(transform).__name__ for transform in transforms)
        raise NotSupported(
            f"preprocess of the steps {steps}: known are Resize, CenterCrop and Normalize as open_clip composes them "
            "for inference (the last that create_model_and_transforms gives); write others as a Preprocess"
        )
    squash = type(resize).__name__ == "Resize" and not isinstance(resize.size, int) and len(resize.size) == 2
    longest = type(resize).__name__ == "ResizeKeepRatio" and float(getattr(resize, "longest", 0)) == 1
    size = _pair((crop or resize).size)
    if crop is None and not squash:
        raise NotSupported("preprocess resizes the shorter side and crops nothing: pictures would keep their aspect")
    sides = _pair(resize.size)
    if crop is not None and (min(sides) != min(size) if not squash else sides != size):
        raise NotSupported(f"preprocess resizes to {_times(sides)} pixels and crops {_times(size)}: both must be one")
    return Preprocess(
        size=size,
        mean=tuple(float(value) for value in normalize.mean),  # type: ignore[arg-type]
        std=tuple(float(value) for value in normalize.std),  # type: ignore[arg-type]
        interpolation=_interpolation(resize.interpolation),
        resize_mode="squash" if squash else "longest" if longest else "shortest",
        fill=int(getattr(crop, "fill", 0)) if longest else 0,
    )


def _makes_rgb(step: Any) -> bool:
    """Whether a step is the function that open_clip's and CLIP's transforms have for that."""
    return getattr(step, "__name__", "") in ("_convert_to_rgb", "_convert_image_to_rgb")


def _interpolation(value: Any) -> Interpolation:
    word = str(getattr(value, "value", value))
    if word not in ("bicubic", "bilinear", "nearest", "lanczos"):
        raise NotSupported(f"preprocess resamples by {word!r}; known are bicubic, bilinear, nearest and lanczos")
    return word  # type: ignore[return-value]


def _pair(size: Any) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return int(sides[0]), int(sides[-1])


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _tokenizer(tokenizer: Any, length: int, name: str) -> Tokenizer:
    """Any of the kinds that `from_module` takes, as ours; `length` is the text tower's, 0 where it is not known."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, (str, Path)):
        return _named_tokenizer(tokenizer, length, name)
    kinds = {base.__name__ for base in type(tokenizer).__mro__}
    if library_of(tokenizer) == "open_clip":
        from binderclip.models.text.tokenize import OpenClipTokenizer

        if "SimpleTokenizer" in kinds:
            return OpenClipTokenizer(tokenizer, length or tokenizer.context_length)
        if "HFTokenizer" in kinds:
            return TransformersTokenizer(tokenizer.tokenizer, length or tokenizer.context_length, tokenizer)
    if hasattr(tokenizer, "convert_tokens_to_ids"):
        length = length or int(tokenizer.model_max_length)
        if length > LONGEST:
            raise UsageError(f"{name}: how long texts may be is not known: set tokenizer.model_max_length to it")
        return TransformersTokenizer(tokenizer, length)
    if callable(tokenizer):
        return FunctionTokenizer(tokenizer, length)
    raise UsageError(
        "tokenizer must be one of open_clip or transformers, the name of an open_clip architecture, a folder or a "
        f"function from texts to ids, not {brief(tokenizer)}"
    )


def _named_tokenizer(tokenizer: str | Path, length: int, name: str) -> Tokenizer:
    import open_clip

    from binderclip.models.image_text.open_clip import tokenizer_of

    folder = Path(tokenizer)
    if folder.is_dir():
        text = {"hf_tokenizer_name": str(folder), **({"context_length": length} if length else {})}
        return tokenizer_of({"text_cfg": text}, folder, name)
    config = open_clip.get_model_config(str(tokenizer))
    if config is None:
        raise UsageError(
            f"tokenizer {str(tokenizer)!r} is neither a folder nor an architecture of open_clip "
            "(open_clip.list_models() has their names)"
        )
    text = {**config["text_cfg"], **({"context_length": length} if length else {})}
    return tokenizer_of({**config, "text_cfg": text}, None, name)
