"""What `erase` does: the object's mask, new content in it, and the sheet of before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from binderclip.data import composite, open_image
from binderclip.errors import NotSupported, UsageError
from binderclip.tasks.arguments.points import check_within
from binderclip.tasks.events import Counted, emit, start
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import new_paths
from binderclip.tasks.models import image_text_model
from binderclip.tasks.pointing import named_mask, opened_segmenter, pointed_mask
from binderclip.tasks.retouching import (
    Painter,
    Retouched,
    checked_mask,
    grown,
    painted,
    read_mask,
    retouched,
    window_around,
    with_transparency,
    without_small_holes,
    write_sheet,
)
from binderclip.tasks.sampling import (
    StepProgress,
    check_scale,
    noise_generator,
    opened_denoiser,
    save_pictures,
)
from binderclip.tasks.verbs.erase.request import WITHOUT_MODEL, EraseRequest
from binderclip.vision import erode

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser

GROWTH = 10 / 512
"""Of the shorter side: what CLIPAway grows a mask by."""
RESAMPLES = 4
"""For a network without inpainting channels: once alone leaves seams, more take longer."""
GREY = 0.5
FILL_SIDE = 256
"""Pixels that a window is reduced to before it is filled smoothly: what is smooth loses nothing by it."""
PATCH_SIDE, PATCHED = 1600, 400_000
"""Side that a larger window is reduced to before it is filled by patches, and pixels of its hole: 11 s and 1.2 GB."""
RIM, LEAST = 6 / 512, 0.1
"""Width of an outline's rim in sides of what the model sees, and the part of a mask that has to be left (p120)."""


def run(request: EraseRequest) -> Retouched:
    """Erase an object; the picture, the mask and the sheet are written.

    Raises:
        UsageError: a mask of another size, an empty or a full one, one so large that a model would fill it with a
            blur, a point outside of the picture, nothing found there, or a result that would replace what is none of
            ours.
        NotSupported: `clipaway` with a model without inpainting channels or image attention.
        CheckpointError: a folder that lacks weights.
        DataError: the picture or the mask cannot be read.
        OutputError: a file cannot be written.
    """
    path = one_image(request.image)
    paths = new_paths(
        path, (request.out, "erased.png"), (request.mask_out, "erased-mask.png"), (request.sheet, "erased-sheet.png")
    )
    original = open_image(path, mode="auto")
    picture = composite(original)
    check_within([*request.point, *request.background_point], picture)
    given = None if request.mask is None else read_mask(request.mask, picture)
    method = request.painted_by
    denoiser = None if method in WITHOUT_MODEL else opened_denoiser(request.model, request.device)
    side = denoiser.side if denoiser is not None else PATCH_SIDE if method == "patches" else FILL_SIDE
    mask = given if given is not None else _named(request, picture) if request.labels else _pointed(request, picture)
    outlined = method == "outline"
    pixels = round(GROWTH * min(picture.size)) if request.grow is None else request.grow
    pixels = 0 if outlined and request.grow is None else pixels
    mask = grown(mask, pixels) if pixels else mask
    mask = _inside(mask, side) if outlined else mask
    left, top, right, bottom = window_around(mask, FILL_SIDE if denoiser is None else side)
    edge = max(right - left, bottom - top)
    if denoiser is None:
        side = min(side, edge)  # as it is where it is small enough
        if method == "patches":
            side = max(1, min(side, int(edge * (PATCHED / int(mask.sum())) ** 0.5)))
    else:
        check_scale(edge, side, request.coarse, ", --method patches")
    paint = _painter(request, denoiser) if denoiser is not None else _patches(request) if method == "patches" else _fill
    # patches have no seam that old content would have to hide
    feather = 0 if outlined or method == "patches" else pixels // 2
    result = painted(picture, mask, paint, side, feather=feather, square=method != "patches")
    done = retouched(request, picture, result, mask, side, paths=paths, method=method)
    save_pictures([with_transparency(original, result, mask), done.mask_picture], paths[:2])
    marked = Image.composite(Image.new("RGB", picture.size, (220, 40, 60)), picture, done.mask_picture)
    write_sheet(
        [(picture, "before"), (Image.blend(picture, marked, 0.5), "mask"), (result, "after")], paths[2], path.name
    )
    return done


def _pointed(request: EraseRequest, picture: Image.Image) -> Bool[Tensor, "H W"]:
    start("cutting out the object")
    segmenter = opened_segmenter(request.segmenter, device=request.device)
    mask, _ = pointed_mask(segmenter, picture, request.point, request.background_point)
    if not mask.any():
        raise UsageError(f"{request.segmenter} found nothing at the point: give another --point, or --mask FILE")
    return checked_mask(torch.from_numpy(without_small_holes(mask)), "what was pointed at")


def _named(request: EraseRequest, picture: Image.Image) -> Bool[Tensor, "H W"]:
    start("looking for what goes")
    labels = request.labels or []
    mask = named_mask(picture, labels, device=request.device)
    if not mask.any():
        raise UsageError(f"no {' or '.join(labels)} is seen in {request.image}: give --point x,y on it, or --mask FILE")
    mask = without_small_holes(mask)
    return checked_mask(torch.from_numpy(mask), f"what {', '.join(labels)} names")


def _inside(mask: Bool[Tensor, "H W"], side: int) -> Bool[Tensor, "H W"]:
    """What is inside of an object's rim: at the picture's own resolution, so that the rim stays bit for bit."""
    left, top, right, bottom = window_around(mask, side)
    radius = max(1, round(RIM * max(right - left, bottom - top)))
    inside = erode(mask, 2 * radius + 1)
    if int(inside.sum()) < LEAST * int(mask.sum()):
        raise UsageError(
            f"the mask is too thin for --method outline: too little is left inside of a rim of {radius} px"
        )
    return inside


def resamples_of(asked: int | None, denoiser: LatentDenoiser) -> int:
    """How often every step is taken: as asked, else what the network needs."""
    return asked if asked is not None else 1 if denoiser.inpaints else RESAMPLES


def follow(denoiser: LatentDenoiser, steps: int, resamples: int) -> StepProgress:
    """The hook that says every step; all but the last are taken `resamples` times."""
    start("painting")
    return StepProgress((steps - 1) * resamples + 1, denoiser.decode)


def _fill(images: Float[Tensor, "1 3 s s"], mask: Float[Tensor, "1 1 s s"]) -> Float[Tensor, "1 3 s s"]:
    from binderclip.generate import biharmonic_fill

    start("filling")
    return biharmonic_fill(images, mask).clamp(0, 1)


def _patches(request: EraseRequest) -> Painter:
    from binderclip.generate import patch_fill

    start("filling")

    def paint(images: Float[Tensor, "1 3 s t"], mask: Float[Tensor, "1 1 s t"]) -> Float[Tensor, "1 3 s t"]:
        try:
            return patch_fill(
                images, mask, seed=request.seed,
                progress=lambda done, total: emit(Counted(done, total, "patch")),
            )  # fmt: skip
        except UsageError as error:  # hardly anything is known, as in a picture of one row
            raise UsageError(f"{error}; --method fill needs none") from error

    return paint


def _painter(request: EraseRequest, denoiser: LatentDenoiser) -> Painter:
    from binderclip.generate import inpaint

    if request.painted_by == "clipaway":
        return _clipaway(request, denoiser)
    resamples = resamples_of(request.resamples, denoiser)
    settings: dict[str, Any] = {
        "num_inference_steps": request.steps, "resamples": resamples, "generator": noise_generator(request.seed),
        "hooks": [follow(denoiser, request.steps, resamples)],
    }  # fmt: skip

    def paint(images: Float[Tensor, "1 3 s s"], mask: Float[Tensor, "1 1 s s"]) -> Float[Tensor, "1 3 s s"]:
        return inpaint(denoiser, images.to(request.device), mask.to(request.device), **settings)

    return paint


def _clipaway(request: EraseRequest, denoiser: LatentDenoiser) -> Painter:
    from binderclip.generate import CLIPAway, load_ip_adapter

    if not denoiser.inpaints:
        raise NotSupported(f"--method clipaway needs a model with inpainting channels, {request.model} has none")
    if request.adapter is not None:
        denoiser = load_ip_adapter(denoiser, request.adapter).to(request.device)
    if denoiser.image_projection is None:
        raise NotSupported(
            f"--method clipaway needs image attention, which {request.model} lacks: give --adapter FILE, or --method "
            "inpaint"
        )
    remove = CLIPAway(
        denoiser, _focused(request), guidance_scale=request.guidance, dilation=0
    )  # the mask is grown already

    def paint(images: Float[Tensor, "1 3 s s"], mask: Float[Tensor, "1 1 s s"]) -> Float[Tensor, "1 3 s s"]:
        images, mask = images.to(request.device), mask.to(request.device)
        try:
            return remove(
                images, mask, num_inference_steps=request.steps, generator=noise_generator(request.seed),
                hooks=[follow(denoiser, request.steps, 1)],
            )  # fmt: skip
        except RuntimeError as error:
            if "shapes cannot be multiplied" not in str(error):
                raise
            raise UsageError(
                f"--image-model {request.image_model} gives embeddings of another width than the image attention takes"
            ) from error

    return paint


def _focused(request: EraseRequest) -> Callable[[Tensor, Tensor], Tensor]:
    """Embeddings of what alpha marks in a picture."""
    from binderclip.models import AlphaCLIP
    from binderclip.models.image_text.alpha import alpha_of

    start("loading the image model")
    model = image_text_model(request.image_model, device=request.device)
    visual = getattr(model.backbone, "visual", None)
    if visual is not None and alpha_of(visual) is not None:
        return AlphaCLIP(model).encode_image

    def encode(images: Float[Tensor, "B 3 H W"], alpha: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B E"]:
        return model.encode_pixels(model.preprocess(images * alpha + GREY * (1 - alpha)))

    return encode
