"""`load_vision(name)`: image towers without a text side, such as DINO's, opened like those of image-text models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models.bundled import architectures as architectures  # registers the names
from binderclip.models.files.checkpoint import check_weights_file, check_weights_finite, configured, guarded
from binderclip.models.files.devices import resolve_device, resolve_dtype
from binderclip.models.files.folders import bundled_of, folder_kind, read_folder, write_folder
from binderclip.models.files.hub import cache_only_when_unreachable, why_not
from binderclip.models.files.registry import close_names
from binderclip.models.image_text.backends import is_convolutional
from binderclip.models.image_text.encoder import PictureModel
from binderclip.models.image_text.preprocess import ImageLike, Preprocess
from binderclip.numeric import check_number

if TYPE_CHECKING:
    from binderclip.models.image_text.image_classifier import ImageClassifier

__all__ = ["VisionModel", "load_vision"]


class VisionModel(PictureModel):
    """An image tower by itself. Images are whatever `ImageTextModel` takes; features are raw unless normalised.

    Args:
        backbone: a timm VisionTransformer.
        arch: its name in timm, for `save`.
        options: what it was built with beyond the name.
        name: it goes by.
        preprocess: pictures -> normalised input.
        card: recipe, data and figures.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        arch: str,
        options: Mapping[str, Any] | None = None,
        name: str = "vision",
        preprocess: Preprocess,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, name=name, preprocess=preprocess, card=card)
        self.arch, self.options = arch, dict(options or {})

    def extra_repr(self) -> str:
        return f"name={self.name!r}, arch={self.arch!r}, image_size={self.image_size}"

    def encode_image(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        normalize: bool = False,
        batch_size: int = 64,
        size: int | tuple[int, int] | None = None,
    ) -> Float[Tensor, "N D"]:
        """One vector for each image, pooled as the model does.

        Args:
            images: one image or many; float tensors may require gradients.
            normalize: rows of length one.
            batch_size: images that go through at once.
            size: input side or (h, w) in pixels, a multiple of the patch; default the model's.

        Raises:
            UsageError: no image, floats outside [0, 1], or batch_size below 1.
            DataError: a picture that cannot be read.
        """
        rows = [self.image_tower(part) for part in self._pixels(images, batch_size, size)]
        features = torch.cat(rows).to(torch.promote_types(self.dtype, torch.float32))
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def patch_features(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        layer: int = -1,
        normalize: bool = False,
        batch_size: int = 16,
        size: int | tuple[int, int] | None = None,
    ) -> Float[Tensor, "N D h w"]:
        """The patch tokens of each image as a map; `correlation(map.flatten(2).mT)` is their affinity.

        Args:
            images: one image or many; float tensors may require gradients.
            layer: after which block, from the end where negative; -1 is the last one, with the final norm behind it.
            normalize: vectors of length one.
            batch_size: images that go through at once.
            size: input side or (h, w) in pixels, a multiple of the patch; default the model's. A larger one gives a
                finer grid.

        Raises:
            UsageError: as `encode_image`, or a layer that is not there.
        """
        tower = self.image_tower
        if not -tower.depth <= layer < tower.depth:
            raise UsageError(f"layer {layer} is not one of the {tower.depth} blocks")
        stop = layer % tower.depth + 1
        maps = []
        for part in self._pixels(images, batch_size, size):
            tokens = tower.run(tower.embed(part), stop=stop)
            x = tower.norm(tokens.patches) if stop == tower.depth and not tower.norm_last else tokens.patches
            height, width = (side // tower.patch for side in part.shape[-2:])
            maps.append(x.mT.unflatten(2, (height, width)))
        features = torch.cat(maps).to(torch.promote_types(self.dtype, torch.float32))
        return nn.functional.normalize(features, dim=1) if normalize else features

    def _pixels(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int, size: int | tuple[int, int] | None
    ) -> tuple[Float[Tensor, "B 3 h w"], ...]:
        check_number("batch_size", batch_size, least=1)
        patch = self.image_tower.patch
        sides = self.preprocess.at(size).size
        if any(side < patch or side % patch for side in sides):
            raise UsageError(f"size {size} is no multiple of the patch of {patch} pixels")
        return self.preprocess(images, size=size).to(self.device, self.dtype).split(batch_size)

    def save(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> Path:
        """Write a model folder that `load_vision` opens.

        Raises:
            UsageError: `folder` is a file, or an unknown precision.
        """
        pixels = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.preprocess).items()}
        config = {"arch": self.arch, "options": self.options, "preprocess": pixels}
        card = {"name": self.name, **self.card}
        return write_folder(
            folder, kind="vision", config=config, state=self.backbone.state_dict(), card=card, dtype=dtype
        )


@overload
def load_vision(  # type: ignore[overload-overlap]  # one name opens a classifier
    name: Literal["lite0"], *, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> ImageClassifier: ...


@overload
def load_vision(
    name: str | Path = "small-dino", *, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> VisionModel: ...


def load_vision(
    name: str | Path = "small-dino", *, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> VisionModel | ImageClassifier:
    """Load an image network without a text side, in eval mode: a `VisionModel`, or an `ImageClassifier`.

    Args:
        name: one of

            - a bundled tower: `small-dino`;
            - a bundled classifier: `lite0` (EfficientNet-Lite0, the 1,000 classes of ImageNet), or the folder of one;
            - `timm:ARCH.TAG`: a VisionTransformer of timm with its weights (`timm:vit_small_patch14_dinov2.lvd142m`,
              `timm:vit_small_patch16_224.dino`; downloaded once); `timm:ARCH/FILE` takes a local weight file,
              `timm:ARCH/none` is randomly initialised;
            - a run folder of `binderclip train`, or the model folder in it.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: precision of the weights: float32, bfloat16, float16 or float64.

    Raises:
        UsageError: an unknown name, device or dtype.
        NotSupported: a device that is not here, or an architecture that cannot be opened.
        CheckpointError: weights that are missing, damaged or of another architecture.
    """
    where, precision, text = resolve_device(device), resolve_dtype(dtype), str(name)
    bundled, classifiers = bundled_of("vision"), bundled_of("classifier")
    if text in classifiers or (Path(text).is_dir() and folder_kind(Path(text)) == "classifier"):
        from binderclip.models.image_text.image_classifier import read_classifier

        network = read_classifier(classifiers.get(text, Path(text)), text)
        check_weights_finite(network.module.state_dict(), text)
        network = network.to(device=where, dtype=precision)
        network.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network
    if text.startswith("timm:"):
        model = _timm(text)
    elif text in bundled:
        model = _folder(bundled[text], text)
    elif Path(text).exists():
        model = _folder(Path(text), text)
    else:
        raise UsageError(_unknown(text, [*bundled, *classifiers]))
    check_weights_finite(model.backbone.state_dict(), text)
    model = model.to(device=where, dtype=precision)
    if is_convolutional(model.backbone):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _ = model.image_tower  # what cannot be opened says so here
    return model.eval()


def _unknown(name: str, bundled: list[str]) -> str:
    close = close_names(name, bundled) or [f"timm:{arch}" for arch in close_names(name, timm.list_models("vit_*"))]
    meant = f"did you mean {', '.join(close)}? " if close else ""
    return (
        f"there is no vision tower or folder {name!r}: {meant}bundled: {', '.join(bundled) or 'none'}; others are "
        "timm:ARCH.TAG, timm:ARCH/FILE or a folder; load() opens image-text models"
    )


def _folder(folder: Path, name: str) -> VisionModel:
    if folder.is_dir() and folder_kind(folder) is None and folder_kind(folder / "model") is None:
        raise CheckpointError(f"{name} is not a folder of a vision tower; load() opens image-text models")
    read = read_folder(folder, "vision")

    def opened() -> VisionModel:
        arch, options = str(read.config["arch"]), dict(read.config.get("options", {}))
        backbone = new_backbone(arch, options)
        guarded(lambda: backbone.load_state_dict(read.state), name, arch)
        given = read.config.get("preprocess", {})
        pixels: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        return VisionModel(
            backbone, arch=arch, options=options, name=name, preprocess=Preprocess(**pixels), card=read.card
        )

    return configured(opened, folder)


def new_backbone(arch: str, options: Mapping[str, Any] | None = None) -> Any:
    """A randomly initialised tower by timm's name.

    Raises:
        UsageError: timm knows no such architecture.
    """
    try:
        return timm.create_model(arch, pretrained=False, num_classes=0, **(options or {}))
    except RuntimeError as error:
        close = close_names(arch, timm.list_models())
        meant = f": did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"timm knows no architecture {arch!r}{meant}") from error


def _timm(name: str) -> VisionModel:
    arch, slash, weights = name.removeprefix("timm:").partition("/")
    bare = arch.split(".")[0]
    if timm.is_model(bare) and not bare.startswith(("vit_", "deit", "eva", "binderclip_")):
        raise NotSupported(f"{name}: only timm's VisionTransformers and Eva can be opened (vit_*, deit*, eva*)")
    if slash:
        backbone = new_backbone(arch)
        if weights != "none":
            path = check_weights_file(Path(weights))
            guarded(lambda: timm.models.load_checkpoint(backbone, str(path)), name, arch)
    else:
        backbone = _pretrained(arch, name)
    data = timm.data.resolve_model_data_config(backbone)
    mode = data["interpolation"]
    side = data["input_size"][1:]
    pixels = Preprocess(
        size=(int(side[0]), int(side[1])),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=mode if mode in ("bilinear", "nearest", "lanczos") else "bicubic",
    )
    return VisionModel(backbone, arch=arch, name=name, preprocess=pixels, card={"summary": f"timm {arch}"})


def _pretrained(arch: str, name: str) -> Any:
    """With timm's weights, from this machine's cache where the hub cannot be reached."""
    if not timm.is_model(arch.split(".")[0]):
        new_backbone(arch)  # says what is near
    if not timm.models.is_model_pretrained(arch):
        raise UsageError(f"{name}: timm has no weights for {arch!r}; write timm:{arch}/none for random ones")
    try:
        with cache_only_when_unreachable():
            return timm.create_model(arch, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises many kinds
        raise CheckpointError(
            f"{name} is not on this machine and could not be downloaded ({why_not(error)}); a local weight file is "
            f"given as timm:{arch}/FILE"
        ) from error
