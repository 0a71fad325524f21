"""DexiNed: dense blocks with two kinds of skips, an edge map at full resolution from each, and their fusion."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.files.released import NameTable, Rename, load_renamed
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["DexiNed", "load_dexined"]

MEAN_BGR = (103.939, 116.779, 123.68)
"""Subtracted from blue, green and red in 0 to 255, as in the released program."""
STEP = 16
"""The deepest block sees the picture at a sixteenth."""
Fusion = Literal["fused", "mean"]


class DexiNed(nn.Module):
    """Finds edges: six blocks, an edge map at full resolution from each, and a 1 x 1 convolution that fuses the six.

    Blocks 3 to 6 are stacks of dense layers, each the mean of what it computes and of one skipped map; a second kind
    of skip leads around every block. Nothing is pre-trained. Names of parameters are those of the released program,
    less two modules that it has and never uses.

    Args:
        width: channels of the first convolution; those of the six blocks are 2, 4, 8, 16, 16 and 8 times as many. The
            paper's 32 has 35,083,403 parameters, 4 has 980,579.
        between: channels between the steps of the upsampling blocks. Of a slim network the released 16 cost more time
            and parameters than all the rest.

    Raises:
        UsageError: a width or number of channels below 1.

    Paper: Dense Extreme Inception Network for Edge Detection (Pattern Recognition 2023, arXiv 2112.02250).

    Examples:
        >>> import torch
        >>> network = DexiNed(width=4).eval()
        >>> network(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 7, 40, 50])
    """

    def __init__(self, width: int = 32, *, between: int = 16) -> None:
        super().__init__()
        check_whole("width", width, least=1)
        check_whole("between", between, least=1)
        self.settings = {"width": width, "between": between}
        c1, c2, c3, c4 = 2 * width, 4 * width, 8 * width, 16 * width
        self.block_1 = _TwoConvolutions(3, width, c1, stride=2, last_relu=True)
        self.block_2 = _TwoConvolutions(c1, c2, c2, stride=1, last_relu=False)
        self.dblock_3 = _DenseStack(2, c2, c3)
        self.dblock_4 = _DenseStack(3, c3, c4)
        self.dblock_5 = _DenseStack(3, c4, c4)
        self.dblock_6 = _DenseStack(3, c4, c3)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # Around a block: its input, or the one before it, is added to what it gives.
        self.side_1, self.side_2 = _Projection(c1, c2, 2), _Projection(c2, c3, 2)
        self.side_3, self.side_4 = _Projection(c3, c4, 2), _Projection(c4, c4, 1)
        # Into a block: the map that each of its dense layers is averaged with.
        self.pre_dense_2, self.pre_dense_3 = _Projection(c2, c3, 2), _Projection(c2, c3, 1)
        self.pre_dense_4, self.pre_dense_5 = _Projection(c3, c4, 1), _Projection(c4, c4, 1)
        self.pre_dense_6 = _Projection(c4, c3, 1)
        for k, (channels, doublings) in enumerate(((c1, 1), (c2, 1), (c3, 2), (c4, 3), (c4, 4), (c3, 4)), start=1):
            self.add_module(f"up_block_{k}", _Upsampling(channels, doublings, between))
        self.block_cat = nn.ModuleDict({"conv": nn.Conv2d(6, 1, 1)})
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 7 H W"]:
        """Logits of an edge at each pixel: from the six blocks, shallow first, and fused.

        Args:
            images: red, green and blue in [0, 1], of any size; the border is repeated up to a multiple of 16.

        Raises:
            UsageError: no float pictures of three channels, or empty ones.
        """
        sides = [getattr(self, f"up_block_{k}")(block) for k, block in enumerate(self.blocks(images), start=1)]
        maps = torch.cat(sides, dim=1)  # (B, 6, H', W')
        height, width = images.shape[-2:]
        return torch.cat([maps, self.block_cat["conv"](maps)], dim=1)[..., :height, :width]

    def probability(self, images: Float[Tensor, "B 3 H W"], *, fusion: Fusion = "fused") -> Float[Tensor, "B H W"]:
        """Probability of an edge at each pixel.

        Args:
            images: as for `forward`.
            fusion: `fused`: of the fused map (the paper's DexiNed-f); `mean`: the mean over all seven (DexiNed-a).

        Raises:
            UsageError: as `forward`, or another fusion.
        """
        check_choice("fusion", fusion, ("fused", "mean"))
        probability = self(images).sigmoid()
        return probability[:, -1] if fusion == "fused" else probability.mean(1)

    def blocks(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """What the six blocks give: at 1/2, 1/2, 1/4, 1/8, 1/16 and 1/16 of the picture.

        Args:
            images: as for `forward`.

        Raises:
            UsageError: as `forward`.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not images.numel():
            raise UsageError(f"images must be float (B, 3, H, W), not {images.dtype} of shape {tuple(images.shape)}")
        height, width = images.shape[-2:]
        mean = images.new_tensor(MEAN_BGR)[:, None, None]
        x = F.pad(images.flip(1) * 255 - mean, (0, -width % STEP, 0, -height % STEP), mode="replicate")
        block_1 = self.block_1(x)
        block_2 = self.block_2(block_1)
        pooled_2 = self.maxpool(block_2)  # 1/4
        added_2 = pooled_2 + self.side_1(block_1)
        block_3 = self.dblock_3(added_2, self.pre_dense_3(pooled_2))
        pooled_3 = self.maxpool(block_3)  # 1/8
        added_3 = pooled_3 + self.side_2(added_2)
        block_4 = self.dblock_4(added_3, self.pre_dense_4(pooled_3 + self.pre_dense_2(pooled_2)))
        pooled_4 = self.maxpool(block_4)  # 1/16
        added_4 = pooled_4 + self.side_3(added_3)
        block_5 = self.dblock_5(added_4, self.pre_dense_5(pooled_4))
        block_6 = self.dblock_6(block_5 + self.side_4(added_4), self.pre_dense_6(block_5))
        return [block_1, block_2, block_3, block_4, block_5, block_6]


def load_dexined(path: str | Path, *, device: str | torch.device = "cpu") -> DexiNed:
    """The paper's network with the weights of a released checkpoint, such as `10_model.pth` of xavysp/DexiNed.

    Args:
        path: safetensors, or what `torch.save` wrote; nothing in it is run.
        device: where the network runs.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: a file that cannot be read, or tensors that are missing, unknown or of another shape.
    """
    rows = (Rename(r"(side_5|block_cat\.bn)\..*", None), Rename(r"(.*)", r"\1"))
    network = DexiNed()
    load_renamed(network, path, NameTable("DexiNed of width 32", rows))
    return network.to(device).eval()


class _TwoConvolutions(nn.Module):
    """3 x 3 convolution, batch normalisation, ReLU, twice; the last ReLU only where asked for."""

    def __init__(self, channels: int, middle: int, out: int, *, stride: int, last_relu: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, middle, 3, padding=1, stride=stride), nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = nn.Conv2d(middle, out, 3, padding=1), nn.BatchNorm2d(out)
        self.last_relu = last_relu

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return x.relu() if self.last_relu else x


class _DenseLayer(nn.Module):
    """Two convolutions of one map, averaged with another."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        # The first convolution widens the map by two pixels, the second gives them back.
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, padding=2), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3), nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "B C H W"], skipped: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        new = self.norm2(self.conv2(self.norm1(self.conv1(x.relu())).relu()))
        return 0.5 * (new + skipped)


class _DenseStack(nn.Module):
    """Dense layers one after the other, each averaged with the same skipped map."""

    def __init__(self, depth: int, channels: int, out: int) -> None:
        super().__init__()
        for k in range(depth):
            self.add_module(f"denselayer{k + 1}", _DenseLayer(out if k else channels, out))

    def forward(self, x: Float[Tensor, "B C H W"], skipped: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        for layer in self.children():
            x = layer(x, skipped)
        return x


class _Projection(nn.Module):
    """1 x 1 convolution and batch normalisation."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, out, 1, stride=stride), nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.bn(self.conv(x))


class _Upsampling(nn.Module):
    """A map of one channel and 2^u times the size, by u learned doublings."""

    def __init__(self, channels: int, doublings: int, between: int) -> None:
        super().__init__()
        kernel, layers = 2**doublings, list[nn.Module]()
        for k in range(doublings):
            out = 1 if k == doublings - 1 else between
            # (H - 1) 2 + kernel - 2 padding = 2 H
            transposed = nn.ConvTranspose2d(out, out, kernel, stride=2, padding=kernel // 2 - 1)
            layers += [nn.Conv2d(channels, out, 1), nn.ReLU(), transposed]
            channels = out
        self.features = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        return self.features(x)


def _initialise(module: nn.Module) -> None:
    """Xavier's normal weights, biases 0; what the released program means to do to single channels it never does."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
