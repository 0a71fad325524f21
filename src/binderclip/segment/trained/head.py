"""What trained heads share: how a picture enters, what is stored of them, and how a folder becomes one again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.images import open_image
from binderclip.errors import CheckpointError, NotSupported
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.trained.tuned import squashed

__all__ = ["SegmentationHead"]

Own = TypeVar("Own", bound="SegmentationHead")


class SegmentationHead(nn.Module):
    """A trained head on an image-text model, which is no submodule of it: stored by its name alone.

    Attributes:
        kind: what its folders say they hold.
        settings: of the constructor, JSON-like.
        size: side in pixels at which pictures are seen, squashed.
    """

    kind: ClassVar[str]
    settings: dict[str, Any]
    size: int
    _held: tuple[Any]

    @property
    def model(self) -> Any:
        """The image-text model."""
        return self._held[0]

    def pixels(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "B 3 S S"]:
        """Pictures squashed and normalised.

        Args:
            images: one or many, as `Preprocess` takes them.
        """
        return squashed(self.model, images, self.size)

    @torch.no_grad()
    def text_of(self, classes: Sequence[str]) -> Float[Tensor, "C E"]:
        """Unit vectors of class names, mean over the model's templates."""
        return F.normalize(self.model.text_bank(list(classes)).prototypes(), dim=-1).to(self.model.device)

    def scored(
        self, image: ImageLike, scores: Callable[[Float[Tensor, "1 3 S S"]], Float[Tensor, "1 C h w"]]
    ) -> tuple[Image.Image, Float[Tensor, "C h w"], Float[Tensor, "C H W"]]:
        """One picture, its scores in eval mode, and these at its size.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            scores: of `pixels`.

        Raises:
            DataError: a picture that cannot be read.
        """
        picture, training = open_image(image).convert("RGB"), self.training  # type: ignore[arg-type]
        self.eval()
        with torch.no_grad():
            coarse = scores(self.pixels(picture)).float()
        self.train(training)
        full = F.interpolate(coarse, picture.size[::-1], mode="bilinear", align_corners=False)
        return picture, coarse[0].cpu(), full[0]

    def save(self, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32") -> Path:
        """Write a folder that `open` reads; of the model what was not trained is stored by name alone.

        Args:
            folder: is made where it is missing.
            card: what to say of it, as JSON.
            dtype: of the stored weights: "float32", "float16" or "int8".
        """
        config = {"head": self.settings, "model": self.model.name, **self._about()}
        return write_folder(folder, kind=self.kind, config=config, state=self._stored(), card=card or {}, dtype=dtype)

    @classmethod
    def open(cls: type[Own], folder: str | Path, model: Any = None) -> Own:
        """Read a folder that `save` wrote.

        Args:
            folder: it.
            model: the image-text model it was trained on; default the one of that name.

        Raises:
            CheckpointError: no such folder, another kind of model, damaged weights, or another tower.
        """
        read = read_folder(folder, cls.kind)
        if model is None:
            from binderclip.models import load

            model = load(configured(lambda: str(read.config["model"]), folder))
        try:
            head = configured(lambda: cls._built(model, read.config, Path(folder)), folder)
        except NotSupported as error:
            raise CheckpointError(f"{folder}: {error}") from error
        stored = head._stored()
        missing = {name: value for name, value in head.state_dict().items() if name not in stored}
        guarded(lambda: head.load_state_dict(missing | read.state), folder, f"the tower of {model.name}")
        return head.eval()

    @classmethod
    def _built(cls: type[Own], model: Any, config: Mapping[str, Any], folder: Path) -> Own:
        """A new head of a folder's configuration."""
        return cls(model, **config["head"])

    def _about(self) -> dict[str, Any]:
        """Further entries of the configuration."""
        return {}

    def _stored(self) -> dict[str, Tensor]:
        """The weights that its folder holds."""
        return self.state_dict()
