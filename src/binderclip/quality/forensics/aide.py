"""AIDE: noise of the least and the most complex windows of a picture, beside what the picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional

from binderclip.data.frequency import dct_patches
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.quality.forensics.detector import Detector, DetectorOutput, Parts, PictureEncoder, checked_side
from binderclip.quality.forensics.views import Places, seen
from binderclip.vision import SRMFilter

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXPERTS = ("noise", "semantic")


class NoiseExpert(nn.Module):
    """A residual network on the noise of a window: SRM filters, then a ResNet with a stem of 30 channels.

    Args:
        layers: blocks of each of the four stages; (3, 4, 6, 3) with bottlenecks is the paper's ResNet-50.
        channels: of the stages, before a bottleneck's factor of 4.
        bottleneck: the blocks of ResNet-50 and larger; False: those of ResNet-18.
        side: windows are resized to it first.
        stem: channels of a stem of three 3 x 3 convolutions (the last has 64), a third of the work; None for the
            paper's 7 x 7 of 64 channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, layers: Sequence[int], channels: Sequence[int], *, bottleneck: bool, side: int, stem: int | None = None
    ) -> None:
        super().__init__()
        self.side = side
        self.filters = SRMFilter()
        block: Any = Bottleneck if bottleneck else BasicBlock  # timm's annotation asks for an instance
        deep: dict[str, Any] = {} if stem is None else {"stem_type": "deep", "stem_width": stem}
        self.net = ResNet(block, tuple(layers), num_classes=0, in_chans=30, channels=tuple(channels), **deep)
        self.width = int(self.net.num_features)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, windows: Float[Tensor, "M 3 w w"]) -> Float[Tensor, "M F"]:
        """One vector a window."""
        size = (self.side, self.side)
        if windows.shape[-2:] != size:
            windows = functional.interpolate(windows, size, mode="bilinear", antialias=True)
        return self.net(self.filters((windows - self.mean) / self.std))


class AIDE(Detector):
    """Detect generated pictures by a mixture of experts: low-level noise and what the picture shows.

    The two windows with the lowest and the two with the highest frequency grade (`data.dct_patches`) go through SRM
    filters and one of two residual networks, one for low grades and one for high ones; the four vectors are averaged.
    Beside them stands the embedding of the whole picture by a frozen model, projected; a small network reads both.

    The released program uses the pooled trunk of ConvNeXt-XXL; here it is the embedding, which every model has. Its
    projection stands under no_grad and keeps its random start; `released=True` does the same.

    Args:
        model: the frozen model of the semantic expert, a name or an opened one.
        experts: of "noise" and "semantic"; both is the paper's.
        layers, channels, bottleneck: of the residual networks, see `NoiseExpert`. The defaults are small;
            `layers=(3, 4, 6, 3), channels=(64, 128, 256, 512), bottleneck=True` is ResNet-50.
        window, stride, bands: of the choice of windows. Default 32, 16 and 6.
        patch_side: windows are resized to it. The paper's 256; default 64.
        side: of the whole picture for the semantic expert; default the model's.
        semantic_width, hidden: of the projection and of the reading network. Default 256 and 1024.
        released: leave the projection as it starts.

    Raises:
        UsageError: unknown experts, or a side that the model does not take.
        DataError: pictures smaller than a window.

    Paper: A Sanity Check for AI-generated Image Detection (arXiv 2406.19435).

    Examples:
        >>> detector = AIDE("small")  # doctest: +SKIP
        >>> train_detector(detector, real_fake_folder("pictures"), steps=200)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: PictureEncoder | str = "small",
        *,
        experts: Sequence[str] = EXPERTS,
        layers: Sequence[int] = (1, 1, 1, 1),
        channels: Sequence[int] = (16, 32, 64, 64),
        bottleneck: bool = False,
        window: int = 32,
        stride: int = 16,
        bands: int = 6,
        patch_side: int = 64,
        side: int | None = None,
        semantic_width: int = 256,
        hidden: int = 1024,
        released: bool = False,
    ) -> None:
        refuse_bare_module(model, "AIDE")
        if not experts or not set(experts) <= set(EXPERTS):
            raise UsageError(f"experts {list(experts)}: one or both of {', '.join(EXPERTS)}")
        settings: dict[str, Any] = {
            "experts": list(experts), "layers": list(layers), "channels": list(channels), "bottleneck": bottleneck,
            "window": window, "stride": stride, "bands": bands, "patch_side": patch_side, "side": side,
            "semantic_width": semantic_width, "hidden": hidden, "released": released,
        }  # fmt: skip
        super().__init__(model, settings)
        self.experts, self.side = tuple(experts), checked_side(side, self.model)
        self.window, self.stride, self.bands, self.patch = window, stride, bands, window
        width = 0
        if "semantic" in experts:
            self.project = nn.Linear(self.model.image_tower.embed_dim, semantic_width).requires_grad_(not released)
            width += semantic_width
        if "noise" in experts:
            self.low, self.high = (
                NoiseExpert(layers, channels, bottleneck=bottleneck, side=patch_side) for _ in range(2)
            )
            width += self.low.width
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 2))

    @property
    def decision(self) -> nn.Linear:
        """The last layer of the reading network."""
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        return last

    def mapped(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 3 h w"]:
        """The middle of the picture at its own resolution, up to eight windows a side."""
        height, width = (min(8, extent // self.window) * self.window for extent in image.shape[-2:])
        if not height or not width:
            raise DataError(f"{image.shape[-2]} x {image.shape[-1]} pixels: smaller than a window of {self.window}")
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        return image[None, :, top : top + height, left : left + width]

    def view(self, images: Float[Tensor, "B 3 H W"], places: Places | None = None) -> Parts:
        """The windows (B, 2, 3, w, w) of low and of high grade, and the whole picture as the model takes it.

        Args:
            images: in [0, 1], at their own size, which decides what the windows show.
            places: not used: the grades choose the places.
        """
        if min(images.shape[-2:]) < self.window:
            raise DataError(
                f"{images.shape[-2]} x {images.shape[-1]} pixels: smaller than a window of {self.window}, whose noise "
                "this detector reads"
            )
        parts = dct_patches(images, window=self.window, stride=self.stride, k=2, bands=self.bands)
        return parts.low, parts.high, seen(images, "resize", self.side, self.model.preprocess)

    def features(self, views: Parts) -> Parts:
        """The windows, and the embedding of the whole picture."""
        low, high, pixels = views
        if "semantic" not in self.experts:
            return low, high, pixels.new_zeros(len(pixels), 0)
        with torch.no_grad():
            return low, high, self.model.image_tower(pixels).float()

    def logits_of_both(self, features: Parts) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B D"]]:
        """Logits of real and fake, and the joint vector behind them."""
        low, high, embedding = features
        parts = []
        if "semantic" in self.experts:
            parts.append(self.project(embedding))
        if "noise" in self.experts:
            vectors = [net(part.flatten(0, 1)) for net, part in ((self.low, low), (self.high, high))]
            parts.append(torch.cat([each.view(len(low), 2, -1) for each in vectors], 1).mean(1))  # (B, F) of four
        joint = torch.cat(parts, 1)
        return self.head(joint), joint

    def read(self, features: Parts) -> DetectorOutput:
        """The difference of the two logits."""
        logits, joint = self.logits_of_both(features)
        return DetectorOutput(logits[:, 1] - logits[:, 0], joint)

    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the two classes."""
        return functional.cross_entropy(self.logits_of_both(features)[0], labels.long())
