"""`binderclip segment --example PICTURE --mask MASK`: what a picture shows with its mask, found in others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.boxes import mask_values
from binderclip.tasks.files.inputs import one_image

if TYPE_CHECKING:
    import numpy as np

    from binderclip.segment import FewShotSegmenter, Segmentation

HEAD = "prototype"
UNTRAINED = ("prior", "prototype")
"""Heads without training, on the features of --model."""
LABEL = "object"


@dataclass(frozen=True)
class ExampleRequest:
    """The options, as given."""

    examples: tuple[str, ...]
    masks: tuple[str, ...]
    value: int | None
    head: str
    model: str
    device: str
    json: bool

    background = ("background",)

    @property
    def title(self) -> str:
        """What made the label maps."""
        on = f", model {self.model}" if self.head in UNTRAINED else ""
        return f"{len(self.examples)} example{'s' * (len(self.examples) > 1)}, head {self.head}{on}"

    @property
    def described(self) -> dict[str, Any]:
        """The same as JSON."""
        model = {"model": self.model} if self.head in UNTRAINED else {}
        return {"examples": list(self.examples), "masks": list(self.masks), "head": self.head, **model}

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """What the label maps depend on; the examples with their times, as a mask may be drawn anew."""
        stamps = [[Path(each).stat().st_size, Path(each).stat().st_mtime_ns] for each in (*self.examples, *self.masks)]
        return {"labels": list(names), **self.described, "mask_value": self.value, "example_files": stamps}

    def build(self, names: Sequence[str]) -> Callable[[Path, list[str]], Segmentation]:
        """A segmenter that knows the examples.

        Raises:
            UsageError: a file that is not there, a head that is unknown or stands on another model.
            DataError: an example that cannot be read, a mask of another size, without a pixel or without the value.
        """
        masks = [self._mask(mask, place) for place, mask in enumerate(self.masks)]
        segmenter = self._segmenter()
        known = segmenter.examples([one_image(each) for each in self.examples], masks)
        return lambda path, labels: segmenter(path, known, label=labels[0])

    def check(self) -> None:
        """Refuse what cannot be, before anything is loaded.

        Raises:
            UsageError: not as many masks as examples, or a file that is not there.
            DataError: an example or mask that cannot be read, sizes that differ, no pixel, or none of the value.
        """
        if len(self.examples) != len(self.masks):
            raise UsageError(
                f"--example and --mask go together, one mask for each picture, not {len(self.examples)} and "
                f"{len(self.masks)}"
            )
        for place in range(len(self.masks)):
            self._mask(self.masks[place], place)

    def _mask(self, given: str, place: int) -> np.ndarray:
        from binderclip.data import open_image

        picture, path = one_image(self.examples[place]), one_image(given)
        values, indexed = mask_values(path)
        width, height = open_image(picture).size
        if values.shape != (height, width):
            raise DataError(
                f"--mask {path} is {values.shape[1]} x {values.shape[0]} pixels, its --example {picture} {width} x "
                f"{height}: one pixel of the mask for each of the picture"
            )
        return chosen_pixels(values, self.value, indexed, path)

    def _segmenter(self) -> FewShotSegmenter:
        from binderclip.segment import FewShotSegmenter, PriorMask, PrototypeMatch, load_few_shot
        from binderclip.segment.few_shot.saving import open_backbone

        if self.head in UNTRAINED:
            backbone = open_backbone(self.model, device=self.device)
            return FewShotSegmenter(backbone, PriorMask() if self.head == "prior" else PrototypeMatch())
        segmenter = load_few_shot(self.head, device=self.device)
        if self.model not in ("small", segmenter.backbone.name):
            raise UsageError(
                f"--head {self.head} was trained on {segmenter.backbone.name}: leave out --model, or take --head "
                f"{' or '.join(UNTRAINED)}"
            )
        return segmenter


def one_label(names: Sequence[str]) -> str:
    """The name of what the examples show.

    Raises:
        UsageError: several, or "background".
    """
    if len(names) != 1:
        raise UsageError(f"--example shows one thing, and --labels names {len(names)}: give one name or none")
    if names[0] == "background":
        raise UsageError("--labels background: what --example shows cannot be called background")
    return names[0]


def chosen_pixels(values: np.ndarray, value: int | None, indexed: bool, path: Path) -> np.ndarray:
    """Pixels of the target in a mask: those of one number, else what is bright where white occurs, else what is not 0.

    Args:
        values: (H, W) numbers of the file.
        value: of --mask-value.
        indexed: whether they are indices of a palette.
        path: for the errors.

    Raises:
        DataError: none of the value, an empty mask, or several classes and no value.
    """
    import numpy as np

    there = [int(each) for each in np.unique(values) if each not in (0, 255)]
    if value is not None:
        if not (values == value).any():
            raise DataError(
                f"--mask {path} has no pixel of the value {value}; it has "
                f"{', '.join(map(str, np.unique(values)[:20].tolist()))}"
            )
        return values == value
    if indexed and len(there) > 1:
        raise DataError(f"--mask {path} is a label map of {', '.join(map(str, there[:20]))}: say which by --mask-value")
    if indexed and there:
        return values == there[0]  # beside one class, 255 is what VOC leaves out
    target = values >= 128 if values.max(initial=0) == 255 else values != 0
    if not target.any():
        raise DataError(f"--mask {path} is empty, every pixel is 0: mark the pixels of what is to be found")
    return target
