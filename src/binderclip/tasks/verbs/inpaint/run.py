"""What `inpaint` does: what a text says, in a mask, and the sheet of before and after."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from binderclip.data import composite, open_image
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import new_paths
from binderclip.tasks.retouching import (
    Retouched,
    grown,
    painted,
    read_mask,
    retouched,
    window_around,
    with_transparency,
    write_sheet,
)
from binderclip.tasks.sampling import (
    check_scale,
    noise_generator,
    opened_denoiser,
    save_pictures,
)
from binderclip.tasks.verbs.erase.run import follow, resamples_of
from binderclip.tasks.verbs.inpaint.request import InpaintRequest


def run(request: InpaintRequest) -> Retouched:
    """Paint into a mask; the picture, the mask and the sheet are written.

    Raises:
        UsageError: a mask of another size, an empty or a full one, one so large that a blur would fill it, a
            word that another model has learned, or a result that would replace what is none of ours.
        CheckpointError: a folder that lacks weights.
        DataError: the picture or the mask cannot be read.
        OutputError: a file cannot be written.
    """
    from binderclip.generate import ClassifierFreeGuidance, inpaint

    path = one_image(request.image)
    paths = new_paths(
        path, (request.out, "inpainted.png"), (request.mask_out, "inpainted-mask.png"),
        (request.sheet, "inpainted-sheet.png"),
    )  # fmt: skip
    original = open_image(path, mode="auto")
    picture = composite(original)
    mask = read_mask(request.mask, picture)
    mask = grown(mask, request.grow) if request.grow else mask
    denoiser = opened_denoiser(request.model, request.device, request.personal)
    resamples = resamples_of(request.resamples, denoiser)

    def paint(images: Float[Tensor, "1 3 s s"], hole: Float[Tensor, "1 1 s s"]) -> Float[Tensor, "1 3 s s"]:
        return inpaint(
            denoiser, images.to(request.device), hole.to(request.device), request.text,
            terms=[ClassifierFreeGuidance(request.guidance)], hooks=[follow(denoiser, request.steps, resamples)],
            num_inference_steps=request.steps, resamples=resamples, generator=noise_generator(request.seed),
        )  # fmt: skip

    left, top, right, bottom = window_around(mask, denoiser.side)
    check_scale(max(right - left, bottom - top), denoiser.side, request.coarse)
    result = painted(picture, mask, paint, denoiser.side)
    done = retouched(request, picture, result, mask, denoiser.side, paths=paths, method="inpaint")
    save_pictures([with_transparency(original, result, mask), done.mask_picture], paths[:2])
    write_sheet([(picture, "before"), (result, f"after: {request.text}")], paths[2], path.name)
    return done
