"""Try-on by two warps in a row: a smooth flow from coarse to fine, then one that may tear and erase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.vision.flow_fields import resize_flow, warp

__all__ = ["SequentialFlow", "erase_by_depth"]


def erase_by_depth(garment: Float[Tensor, "B C H W"], flow: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C H W"]:
    """Sample a layer at depth -1, with nothing at depth 1 behind it, at (0, 0, -1) + flow; equation 11.

    Trilinear sampling of these two layers is bilinear sampling of the first one times `1 - dz / 2`: a displacement
    in depth of 0 keeps the garment, one of 2 erases it, and neither touches where the texture comes from. (The released
    code samples without aligned corners, which makes it `1.5 - dz`; both are clamped to [0, 1].)

    Args:
        garment: pixels and mask.
        flow: (rows, columns) in pixels, and depth.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).
    """
    return warp(garment, flow[:, :2]) * (1 - flow[:, 2:] / 2).clamp(0, 1)


class SequentialFlow(nn.Module):
    """Predicts how a garment lies on a body, and the body's layout with it (the condition generator of SD-VITON).

    Two encoders read garment and body. From the coarsest level on a flow is predicted, moves the garment's features,
    and is refined from them and from what the layout's decoder has so far: the smooth flows (TVOB in the paper). At the
    finest level one more flow, with a third component in depth, is predicted from the moved features and the body's:
    it moves the garment a second time, and erases it where it goes to depth 1 (TACO). Smoothness is then asked of
    the first and the adversary's wish for sleeves on arms is met by the second.

    The batch is a mapping with `cloth` [B, 3, H, W], 0 outside of the garment, `cloth_mask` [B, 1, H, W] and `body`
    [B, body_channels, H, W]. Outputs by name:

    - `flows`: the smooth flows [B, 2, h, w], coarse to fine, (rows, columns) in pixels of their level;
    - `smooth`: cloth and mask after the last of them, [B, 4, H, W];
    - `depth_flow`: the flow [B, 3, h, w] of the second warp, or None;
    - `warped`: cloth and mask after both warps, [B, 4, H, W];
    - `layout`: logits [B, classes, H, W]; those of the garment are multiplied by its warped mask.

    Args:
        body_channels: of the body's maps.
        classes: of the layout.
        garment: the class of the garment.
        width: channels of the finest level; 96 as published. They double up to the fourfold.
        levels: halvings, at least 2; 5 as published.
        sequential: with the second warp; without it this is the baseline, in which one flow serves all losses.

    Raises:
        UsageError: a number out of range.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).

    Examples:
        >>> import torch
        >>> model = SequentialFlow(2, 3, garment=1, width=4, levels=2).eval()
        >>> shirt, body = torch.rand(1, 4, 16, 12), torch.zeros(1, 2, 16, 12)
        >>> outputs = model({"cloth": shirt[:, :3], "cloth_mask": shirt[:, 3:], "body": body})
        >>> outputs["warped"].shape, outputs["layout"].shape
        (torch.Size([1, 4, 16, 12]), torch.Size([1, 3, 16, 12]))
    """

    def __init__(
        self,
        body_channels: int = 16,
        classes: int = 13,
        *,
        garment: int = 3,
        width: int = 96,
        levels: int = 5,
        sequential: bool = True,
    ) -> None:
        super().__init__()
        for name, number in (("body_channels", body_channels), ("classes", classes), ("width", width)):
            check_whole(name, number, least=1)
        check_whole("levels", levels, least=2)
        check_whole("garment", garment, least=0)
        if garment >= classes:
            raise UsageError(f"garment must be one of {classes} classes, counted from 0, got {garment}")
        self.garment, self.levels = garment, levels
        widths = [width * min(2**level, 4) for level in range(levels)]
        deep = widths[-1]
        self.garment_encoder, self.body_encoder = (
            nn.ModuleList(_Residual(a, b, "down") for a, b in zip([first, *widths[:-1]], widths, strict=True))
            for first in (4, body_channels)
        )
        self.garment_laterals, self.body_laterals = (
            nn.ModuleList(nn.Conv2d(c, deep, 1) for c in widths[:-1]) for _ in range(2)
        )
        after = [*widths[-2::-1], width]  # channels of the decoder, coarse to fine
        self.flow_heads = nn.ModuleList(nn.Conv2d(2 * deep, 2, 3, padding=1) for _ in widths)
        self.reduce = nn.ModuleList(nn.Sequential(nn.Conv2d(c, deep, 3, padding=1), nn.ReLU()) for c in after[:-1])
        self.start = _Residual(deep, 2 * deep)
        before = [2 * deep, *(x + skip + deep for x, skip in zip(after, widths[-2::-1], strict=False))]
        self.decoder = nn.ModuleList(_Residual(a, b, "up") for a, b in zip(before, after, strict=True))
        # The published layer is a 3-D convolution over two depths of which the second is empty: for the first depth,
        # the only one that is looked at, that is a 2-D convolution.
        self.depth_head = nn.Conv2d(2 * deep, 3, 3, padding=1) if sequential else None
        self.see_body = _Residual(4 + body_channels, width)
        self.out = _Residual(2 * width, classes)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """The outputs, by name.

        Args:
            batch: as above; sides must be multiples of 2^levels and at least twice that.

        Raises:
            UsageError: sides that are not.
        """
        source, body = torch.cat([batch["cloth"], batch["cloth_mask"]], 1), batch["body"]
        height, width = body.shape[-2:]
        unit = 2**self.levels
        if height % unit or width % unit or min(height, width) < 2 * unit:
            raise UsageError(f"sides must be multiples of {unit}, at least {2 * unit}; got {height} x {width}")
        garments, bodies = _pyramid(self.garment_encoder, source), _pyramid(self.body_encoder, body)
        moving, still = garments[-1], bodies[-1]  # T1 and T2 of the paper
        flows = [self.flow_heads[0](torch.cat([moving, still], 1))]
        x = self.decoder[0](self.start(still))
        for i in range(1, self.levels):
            level = self.levels - 1 - i
            moving = _double(moving) + self.garment_laterals[level](garments[level])
            still = _double(still) + self.body_laterals[level](bodies[level])
            moved = warp(moving, resize_flow(flows[-1], moving.shape[-2:]))
            step = self.flow_heads[i](torch.cat([moved, self.reduce[i - 1](x)], 1))
            flows.append(_double(flows[-1]) + step)  # unscaled, as released: the step learns the rest
            x = self.decoder[i](torch.cat([x, bodies[level], moved], 1))
        smooth = warped = warp(source, resize_flow(flows[-1], (height, width)))
        depth_flow = None
        if self.depth_head is not None:
            depth_flow = self.depth_head(torch.cat([warp(moving, flows[-1]), still], 1))  # equation 10
            across = resize_flow(depth_flow[:, :2], (height, width))
            warped = erase_by_depth(smooth, torch.cat([across, _double(depth_flow[:, 2:])], 1))
        layout = self.out(torch.cat([x, self.see_body(torch.cat([body, warped], 1))], 1))
        seen = torch.ones_like(layout)
        seen[:, self.garment] = warped[:, 3]
        return {
            "flows": tuple(flows), "smooth": smooth, "depth_flow": depth_flow, "warped": warped, "layout": layout * seen
        }  # fmt: skip


class _Residual(nn.Module):
    """A convolution that changes the size or the channels, and two more beside it."""

    def __init__(self, before: int, after: int, scale: str = "same") -> None:
        super().__init__()
        self.doubles = scale == "up"
        self.scale: nn.Module = nn.Conv2d(before, after, 1)
        if scale == "down":
            self.scale = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.block = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(_double(x) if self.doubles else x)
        return F.relu(x + self.block(x))


def _pyramid(encoder: nn.ModuleList, x: Tensor) -> list[Tensor]:
    maps = []
    for stage in encoder:
        x = stage(x)
        maps.append(x)
    return maps


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
