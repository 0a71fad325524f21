"""`load(name)`: the one door to every model."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models.files import registry
from binderclip.models.files.devices import SLOW_HERE, emulated, resolve_device, resolve_dtype
from binderclip.models.files.folders import bundled_of
from binderclip.models.image_text.folder import encoder_from_folder, finish
from binderclip.models.image_text.model import ImageTextModel


def load(
    name: str | Path = registry.DEFAULT, *, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> ImageTextModel:
    """Load an image-text model, in eval mode. Without a tokenizer that fits it warns, and still encodes images.

    Args:
        name: one of

            - a bundled model: `everyday` (default), `small`, ... (`list_models()`);
            - `open_clip:ARCH/PRETRAINED`: an architecture of open_clip with a tag (downloaded once) or a local weight
              file; `open_clip:ARCH` or `open_clip:ARCH/none` is randomly initialised and says so;
            - `hf:REPO_OR_FOLDER`: a CLIP, MetaCLIP 2, Chinese CLIP, AltCLIP, SigLIP or SigLIP 2 of `transformers`;
            - a run folder of `binderclip train`, or any folder in open_clip's `local-dir:` or transformers' format.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: precision of the towers: float32, bfloat16, float16 or float64. Features, cosines and logits are float32
            or better whatever it is.

    Raises:
        UsageError: an unknown name (the message has the nearest known ones), device or dtype.
        NotSupported: a device that is not here.
        CheckpointError: weights that are missing, damaged, unsafe to read, of another architecture, NaN or infinite.
        MissingDependency: `hf:` without transformers.
    """
    where, precision = resolve_device(device), resolve_dtype(dtype)
    text = str(name)
    if not text.strip():
        raise UsageError(_unknown(text))
    if text.startswith("open_clip:"):
        model = _open_clip(text)
    elif text.startswith("hf:"):
        from binderclip.models.image_text import hf as hf_models

        model = hf_models.load_hf(text.removeprefix("hf:"), text)
    elif text in (folders := registry.bundled_folders()):
        model = _from_folder(folders[text], text)
    elif Path(text).exists():
        model = _from_path(Path(text), text)
    else:
        raise UsageError(_unknown(text))
    return _ready(model, where, precision)


def load_encoder(
    name: str | Path = registry.DEFAULT, *, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> ImageTextModel:
    """As `load`, for encoding alone: a model of a bundled architecture is there in half the time.

    Features, fingerprint and files are those of `load`, bit for bit, but the towers cannot be opened (attributions,
    segmentation, adapters want `load`): they are of torch alone, as timm and open_clip take longer to import than such
    a model takes to answer. A model of another architecture is loaded as by `load`.

    Args:
        name, device, dtype: as for `load`.

    Raises:
        UsageError, NotSupported, CheckpointError, MissingDependency: as `load`.
    """
    folder = registry.bundled_folders().get(str(name)) or _folder_of(str(name))
    if folder is not None:
        where, precision = resolve_device(device), resolve_dtype(dtype)
        model = encoder_from_folder(folder, str(name))
        if model is not None:
            return _ready(model, where, precision)
    return load(name, device=device, dtype=dtype)


def _folder_of(name: str) -> Path | None:
    """The folder in open_clip's format that a name means, if it means one."""
    if not name.strip() or name.startswith(("open_clip:", "hf:")):
        return None
    return next((path for path in (Path(name), Path(name) / "model") if (path / registry.CONFIG).is_file()), None)


def _ready(model: ImageTextModel, where: torch.device, precision: torch.dtype) -> ImageTextModel:
    if emulated(precision, where):
        warnings.warn(f"dtype {str(precision).removeprefix('torch.')}: {SLOW_HERE}", stacklevel=3)
    model = finish(model, where, precision)
    try:
        model.tokenize("a")
    except NotSupported as error:
        reason = str(error)
        warnings.warn(
            reason if reason.startswith(model.name) else f"{model.name} can encode images but not texts: {reason}",
            stacklevel=3,
        )
    return model


def _from_folder(folder: Path, name: str) -> ImageTextModel:
    from binderclip.models.image_text.open_clip import from_folder

    return from_folder(folder, name)


def _open_clip(name: str) -> ImageTextModel:
    from binderclip.models.image_text import open_clip as open_clip_models

    rest = name.removeprefix("open_clip:")
    if rest.startswith("local-dir:"):
        return open_clip_models.from_folder(Path(rest.removeprefix("local-dir:")), name)
    if rest.startswith("hf-hub:"):
        return open_clip_models.from_hub(rest, name)
    arch, _, pretrained = rest.partition("/")
    return open_clip_models.from_architecture(arch, pretrained, name)


def _from_path(path: Path, name: str) -> ImageTextModel:
    if path.is_file():
        raise UsageError(
            f"{name} is a file, and weights alone do not say which architecture they are for: "
            f"write open_clip:ARCH/{name}, or give the folder of the model"
        )
    if (folder := _folder_of(name)) is not None:
        return _from_folder(folder, name)
    if _is_transformers(path):
        from binderclip.models.image_text import hf as hf_models

        return hf_models.load_hf(str(path), name)
    if (path / "model").is_dir() or (path / "recipe.toml").is_file():
        raise CheckpointError(f"{name} looks like a run folder, but has no finished model in {path / 'model'} yet")
    raise CheckpointError(
        f"{name} holds no model: looked for {registry.CONFIG} in it and in {path / 'model'} (a run folder or "
        "open_clip's local-dir: format), and for a transformers config.json"
    )


def _is_transformers(folder: Path) -> bool:
    try:
        document = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "model_type" in document


def _unknown(name: str) -> str:
    doors = {
        "vision": "binderclip.models.load_vision",
        "classifier": "binderclip.models.load_vision",
        "promptable": "binderclip.segment.load_promptable",
        "vq-autoencoder": "binderclip.generate.load_vq_autoencoder",
        "diffusion": "binderclip.generate.load_denoiser",
    }
    opened = {each: door for kind, door in doors.items() for each in bundled_of(kind)}
    opened["small-fence"] = "binderclip.generate.load_cleaner"  # a folder of another format
    if name in opened:
        return f"{name!r} is no image-text model: {opened[name]}({name!r}) opens it"
    bundled = list(registry.bundled_folders())
    shortened = [n.removeprefix("open_clip:") for n in registry.list_models(pretrained=False) if ":" in n]
    close = registry.close_names(name, bundled) or [f"open_clip:{n}" for n in registry.close_names(name, shortened)]
    meant = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"there is no model or folder {name!r}: {meant}bundled: {', '.join(bundled) or 'none'}; others are "
        "open_clip:ARCH/PRETRAINED, hf:REPO_OR_FOLDER or a folder (list_models() names what is known)"
    )
