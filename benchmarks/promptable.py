"""Automatic masks beside transformers' pipeline, clicks of a session beside its passes, and many objects clicked."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from benchmarks.harness import Row, compare
from binderclip.segment import AutomaticMasks, InteractiveEvaluation, InteractiveSession, Prompts, load_promptable
from binderclip.segment.promptable import click_curve
from binderclip.segment.promptable.hf import HfSegmenter
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.data.click_scenes import click_samples

KEPT = 0.3
"""Share of the candidates whose predicted IoU is above the threshold: random weights have no threshold of their own."""


def run(
    *, side: int = 512, width: int = 192, points: int = 16, clicks: int = 20, objects: int = 100, repeats: int = 3
) -> list[Row]:
    """All rows, one thread.

    Args:
        side, width: of the random SAM's pictures and encoder; its decoder is of the published size.
        points: along each side of the grid.
        clicks: of a session, and on each object.
        objects: at least so many are clicked.
        repeats: pairs.
    """
    with one_thread():
        return [
            automatic(side, width, points, repeats),
            *session(clicks, repeats),
            evaluation(objects, clicks, repeats),
        ]


def random_sam(side: int, width: int) -> HfSegmenter:
    """A SAM of transformers with random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "image_size": side, "patch_size": 16, "hidden_size": width, "num_hidden_layers": 6, "mlp_dim": 4 * width,
            "num_attention_heads": 3, "global_attn_indexes": [2, 5], "window_size": 14, "num_pos_feats": 128,
        },
        prompt_encoder_config={"image_size": side, "patch_size": 16, "image_embedding_size": side // 16},
    )  # fmt: skip
    images = transformers.SamImageProcessor(
        size={"longest_edge": side}, pad_size={"height": side, "width": side},
        mask_size={"longest_edge": side // 4}, mask_pad_size={"height": side // 4, "width": side // 4},
    )  # fmt: skip
    return HfSegmenter(transformers.SamModel(config).eval(), transformers.SamProcessor(images))


def automatic(side: int, width: int, points: int, repeats: int) -> Row:
    """A picture, a grid of points, the same weights and thresholds on both sides."""
    import transformers

    segmenter = random_sam(side, width)
    pixels = torch.rand(3, side * 3 // 32, side // 8, generator=torch.Generator().manual_seed(0))
    picture: Image.Image = to_pil_image(pixels).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    ours = AutomaticMasks(segmenter, points_per_side=points, stability_score_thresh=0.0)
    with torch.no_grad():
        state = segmenter.encode(picture)
        grid = ours.grid(*state.size)[:, None]
        scores = segmenter.predict_low(state, Prompts(grid, torch.ones(len(grid), 1, dtype=torch.long)))[1]
    least = float(scores.quantile(1 - KEPT))
    ours = AutomaticMasks(segmenter, points_per_side=points, stability_score_thresh=0.0, pred_iou_thresh=least)
    pipeline: Any = transformers.pipeline(
        "mask-generation", model=segmenter.model, image_processor=segmenter.images, device="cpu"
    )
    settings: dict[str, Any] = {
        "points_per_crop": points, "points_per_batch": 64, "pred_iou_thresh": least, "stability_score_thresh": 0.0,
    }  # fmt: skip
    numbers = len(ours(picture)), len(pipeline(picture, **settings)["masks"])
    if abs(numbers[0] - numbers[1]) > max(1, 0.1 * max(numbers)):
        raise RuntimeError(f"the two sides do not find the same: {numbers[0]} and {numbers[1]} masks")
    return compare(
        f"automatic masks, {points} x {points} points, random SAM of {side} px",
        lambda: ours(picture),
        lambda: pipeline(picture, **settings),
        repeats=repeats,
        unit="s",
        goal="at least 2x",
        target=2.0,
        peer_name='transformers\' pipeline("mask-generation")',
        note=f"both call the same decoder, 64 points at once, keep the {KEPT:.0%} of the candidates with the highest "
        f"predicted IoU and find {numbers[0]} and {numbers[1]} masks; ours enlarges those that are kept alone; by a "
        "profile nine tenths of our time are the decoder's passes, two fifths of them products and attention, two "
        "fifths sums and copies of the 64 times 1,024 tokens, a fifth up-sampling, all of which both sides do",
    )


def places(count: int, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Where a session clicks."""
    drawn = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([size[1], size[0]])
    return [(x, y) for x, y in drawn.tolist()]


def session(clicks: int, repeats: int) -> list[Row]:
    """A session on the bundled segmenter: beside its bare passes, and beside encoding the picture for every click."""
    segmenter, (image, _) = load_promptable("small-sam"), click_samples(0, 1)[0]
    points = places(clicks, (image.shape[1], image.shape[2]))

    def ours() -> Tensor:
        held = InteractiveSession(segmenter, image)
        for x, y in points:
            held.click(x, y)
        return held.mask

    @torch.no_grad()
    def passes(*, anew: bool) -> Tensor:
        state, previous = segmenter.encode(image), None
        masks: Any = None
        for number in range(1, clicks + 1):
            if anew and number > 1:
                state = segmenter.encode(image)
            asked = Prompts.of(points=points[:number], labels=[1] * number, mask=previous)
            masks = segmenter.predict(state, asked, multimask=number == 1).pick()
            previous = masks.low_res[0, 0]
        return masks.logits[0, 0] > 0

    if not torch.equal(ours(), passes(anew=False)):
        raise RuntimeError("the two sides do not draw the same mask")
    common: dict[str, Any] = {"repeats": repeats + 2}
    return [
        compare(
            f"{clicks} clicks in a session, small-sam", ours, lambda: passes(anew=False), speedup=False,
            goal="at most 1.1x", target=1.1, peer_name=f"1 encoding and {clicks} decoder passes alone", **common,
        ),
        compare(
            f"{clicks} clicks in a session, small-sam", ours, lambda: passes(anew=True),
            peer_name="the picture encoded for every click", **common,
        ),
    ]  # fmt: skip


def evaluation(objects: int, clicks: int, repeats: int) -> Row:
    """Clicks on every object of many pictures, each where the error is deepest."""
    segmenter, samples, count = load_promptable("small-sam"), [], 0
    for image, masks in click_samples(1, objects):
        if count >= objects:
            break
        kept = masks[: objects - count]
        samples.append((image, kept))
        count += len(kept)
    evaluate = InteractiveEvaluation(segmenter, max_clicks=clicks)

    def one_by_one() -> Tensor:
        return torch.stack(
            [click_curve(segmenter, image, mask, clicks=clicks) for image, masks in samples for mask in masks]
        )

    found = float(evaluate(samples).iou.mean()), float(one_by_one().mean())
    if abs(found[0] - found[1]) > 0.01:
        raise RuntimeError(f"the two sides do not click the same: mean IoU {found[0]:.3f} and {found[1]:.3f}")
    return compare(
        f"{count} objects, {clicks} clicks each, small-sam",
        lambda: evaluate(samples),
        one_by_one,
        repeats=repeats,
        warmup=0,
        unit="s",
        goal="at least 5x",
        target=5.0,
        peer_name="object by object, click by click, as RITM's scripts do",
        note="the peer encodes a picture once for each of its objects, where RITM's own net sees it again with every "
        "click; ours also measures boundary IoU after every click; by a profile two thirds of our time are passes of "
        "the decoder and an eighth distance transforms, which cost an object as much in a batch as alone",
    )
