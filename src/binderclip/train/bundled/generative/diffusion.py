"""How the bundled `small-diffusion` was made: a text-to-image denoiser of 64 px, which fills in and takes image tokens.

`latent_table` encodes pictures, captions and masked pictures once; `train_diffusion` trains on the table alone, goes on
exactly where it was interrupted, and takes about a second a step on one core.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from binderclip.data.sets.packs import TRAINING_PACKS, pack_hash
from binderclip.documents import json_text
from binderclip.errors import require
from binderclip.files import write_whole
from binderclip.fit import Checkpoint, fit
from binderclip.generate import ImageTextPromptEncoder, LatentDenoiser, NoiseSchedule, load_denoiser, save_denoiser
from binderclip.models import load
from binderclip.train.bundled.data.drawings import CaptionedPicture, drawing_pictures, shape_pictures
from binderclip.train.bundled.figures.diffusion_figures import diffusion_figures
from binderclip.train.bundled.generative.autoencoder import reconstruction_psnr

__all__ = [
    "LatentBatches",
    "latent_table",
    "new_diffusion",
    "random_masks",
    "train_diffusion",
    "velocity_loss",
    "write_diffusion",
]

TEXT_MODEL = "small"
EMOJI = ("noto-emoji", "twemoji", "fluent-emoji-flat", "emojione", "fxemoji", "noto-v1")
KIND_WEIGHTS = {"shape": 0.35, "emoji": 0.55, "silhouette": 0.1}
"""Of a batch. Emoji come in six styles of the same things, which so small a network can learn in hours; drawings that
nothing resembles, and flags, it cannot, and they are left out."""
FILLED_IN = 0.4
"""Of a batch: pictures of which a part is known; of the others nothing is."""
NO_TEXT = 0.1
"""Rows without a text: without any condition where they have no image tokens."""
EMBEDDED = 0.3
"""Of a batch: free pictures with image tokens."""
TOKENS_WHERE_FILLED_IN = 0.4
"""Rows with image tokens among those that are filled in and have an embedding."""
ONLY_IMAGE = 0.5
"""Rows with image tokens in place of the text, of those with image tokens."""
IMAGE_TOKENS = 4
CHECKPOINT_EVERY = 250  # steps
SNR_LIMIT = 5.0  # Min-SNR weighting (arXiv 2303.09556), in its form for v-prediction
GREY = 0.5


def new_diffusion(autoencoder: Any, seed: int = 0, *, channels: Sequence[int] = (64, 128)) -> LatentDenoiser:
    """A denoiser at random weights over an autoencoder's latents, with nine input channels and image attention.

    Args:
        autoencoder: of four latent channels.
        seed: of the weights.
        channels: of the network at full and half the latents' side; both have attention.
    """
    require("diffusers", "generate")
    from diffusers import UNet2DConditionModel
    from diffusers.models.embeddings import ImageProjection

    text = ImageTextPromptEncoder(load(TEXT_MODEL))
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, block_out_channels=tuple(channels), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text.width, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    projection = ImageProjection(text.model.embed_dim, text.width, IMAGE_TOKENS)
    return LatentDenoiser(
        unet, autoencoder, text, NoiseSchedule.scaled_linear(), prediction="v_prediction", image_projection=projection
    )


def random_masks(alpha: Float[Tensor, "N 1 64 64"], generator: torch.Generator) -> Float[Tensor, "N 1 64 64"]:
    """What is to be filled in, 1 where it is: a box, the grown silhouette of the drawing, or a half plane.

    Args:
        alpha: how much of each pixel the drawing covers, in [0, 1].
        generator: of the choice.
    """
    count, side = len(alpha), alpha.shape[-1]
    low, high = (torch.rand(count, 2, generator=generator) * side * part for part in (0.6, 0.5))
    place = torch.arange(side)
    box = (place >= low[..., None]) & (place < (low + 8 + high)[..., None])  # (N, 2, side): rows and columns
    boxes = (box[:, 0, :, None] & box[:, 1, None, :])[:, None].float()
    grown = functional.max_pool2d((alpha > 0.5).float(), 9, 1, 4)
    half = torch.zeros_like(alpha)
    half[..., side // 2 :] = 1
    turned = torch.randint(0, 4, (count,), generator=generator)
    half = torch.stack([mask.rot90(int(turns), (-2, -1)) for mask, turns in zip(half, turned, strict=True)])
    kind = torch.rand(count, generator=generator)[:, None, None, None]
    return torch.where(kind < 0.4, boxes, torch.where(kind < 0.85, grown, half))


@torch.no_grad()
def latent_table(
    path: str | Path, denoiser: LatentDenoiser, *, shapes: int = 9000, masked: int = 10000, embedded: int = 7000
) -> dict[str, Tensor]:
    """Encode what is trained on, or read what was encoded.

    Args:
        path: of the safetensors file with the table.
        denoiser: whose autoencoder and text encoder are used.
        shapes: pictures of plain shapes.
        masked: pictures that are encoded again with a part of them hidden.
        embedded: pictures whose image embedding is kept; half of them are masked ones, too.

    Returns:
        `latents` (N, 4, 16, 16); `kind` (N,), the place in `KIND_WEIGHTS`; `text` (N,), the row of `states`;
        `states` (T, L, D), the first one of the empty text; `hidden` (M,), the row of a masked picture, with `mask`
        (M, 1, 16, 16) and `known` (M, 4, 16, 16); `seen` (E,), the row of a picture with `embedding` (E, K), and
        `place` (N,), a picture's place among those, -1 without.
    """
    path = Path(path)
    if path.is_file():
        return load_file(path)
    pictures = [*drawing_pictures("train", 0), *drawing_pictures("train", 1), *shape_pictures(shapes, 1)]
    pictures = [picture for picture in pictures if _kind(picture) is not None]
    captions = list(dict.fromkeys(["", *(picture.caption for picture in pictures)]))
    place = {caption: row for row, caption in enumerate(captions)}
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pictures), generator=generator)
    hidden = order[:masked]
    seen = torch.cat([hidden[: embedded // 2], order[masked:][: embedded - embedded // 2]])
    states = torch.cat([denoiser.text.states(captions[i : i + 256]).half() for i in range(0, len(captions), 256)])
    masks = random_masks(_alpha(pictures, hidden), generator)
    grey = [
        denoiser.encode(_pixels(pictures, rows) * (1 - mask) + GREY * mask).half()
        for rows, mask in zip(hidden.split(64), masks.split(64), strict=True)
    ]
    kinds = list(KIND_WEIGHTS)
    embedding_place = torch.full((len(pictures),), -1)
    embedding_place[seen] = torch.arange(len(seen))
    small = load(TEXT_MODEL)
    table = {
        "latents": torch.cat(
            [denoiser.encode(_pixels(pictures, rows)).half() for rows in torch.arange(len(pictures)).split(64)]
        ),
        "kind": torch.tensor([kinds.index(str(_kind(picture))) for picture in pictures]),
        "text": torch.tensor([place[picture.caption] for picture in pictures]),
        "states": states,
        "hidden": hidden,
        "mask": functional.max_pool2d(masks, denoiser.factor).half(),
        "known": torch.cat(grey),
        "seen": seen,
        "place": embedding_place,
        "embedding": torch.cat([small.encode_image(_pixels(pictures, rows)).half() for rows in seen.split(64)]),
    }
    table = {name: value.contiguous() for name, value in table.items()}
    write_whole(path, lambda draft: save_file(table, draft))
    return table


def _kind(picture: CaptionedPicture) -> str | None:
    if picture.kind in EMOJI:
        return None if picture.caption.startswith("flag") else "emoji"
    return picture.kind if picture.kind in KIND_WEIGHTS else None


def _pixels(pictures: Sequence[CaptionedPicture], rows: Int[Tensor, " n"]) -> Float[Tensor, "n 3 64 64"]:
    stacked = np.stack([pictures[int(row)].pixels for row in rows])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def _alpha(pictures: Sequence[CaptionedPicture], rows: Int[Tensor, " n"]) -> Float[Tensor, "n 1 64 64"]:
    return torch.from_numpy(np.stack([pictures[int(row)].alpha for row in rows]))[:, None].float() / 255


class LatentBatches:
    """Batches by number from a table: latents, states, what is known, image embeddings; `seek` goes on from one.

    Args:
        table: of `latent_table`.
        batch: rows a batch.
        nothing: latents of a grey picture, known where nothing is.
        seed: of everything.
    """

    def __init__(self, table: dict[str, Tensor], batch: int, nothing: Float[Tensor, "4 16 16"], seed: int = 0) -> None:
        self.table, self.batch, self.nothing, self.seed, self.first = table, batch, nothing, seed, 0
        per_kind = torch.tensor(list(KIND_WEIGHTS.values()))[table["kind"]]
        counts = torch.bincount(table["kind"], minlength=len(KIND_WEIGHTS))[table["kind"]]
        weights = (per_kind / counts).double()
        self._free = (weights / weights.sum()).numpy()
        self._masked = self._of(table["hidden"])
        self._embedded = self._of(table["seen"])

    def _of(self, rows: Int[Tensor, " n"]) -> np.ndarray:
        weights = self._free[rows.numpy()]
        return weights / weights.sum()

    def seek(self, number: int) -> None:
        """Begin with this batch."""
        self.first = number

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        number = self.first
        while True:
            yield self.draw(np.random.default_rng([self.seed, number]))
            number += 1

    def draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A batch: first the rows that are filled in, then those with image tokens, then those of text alone."""
        table, count = self.table, self.batch
        filled, seen = round(FILLED_IN * count), round(EMBEDDED * count)
        hidden = torch.from_numpy(rng.choice(len(self._masked), filled, p=self._masked))
        embedded = torch.from_numpy(rng.choice(len(self._embedded), seen, p=self._embedded))
        plain = torch.from_numpy(rng.choice(len(self._free), count - filled - seen, p=self._free))
        rows = torch.cat([table["hidden"][hidden], table["seen"][embedded], plain])
        known = self.nothing.expand(count, -1, -1, -1).clone()
        mask = torch.ones(count, 1, *self.nothing.shape[-2:])
        known[:filled], mask[:filled] = table["known"][hidden].float(), table["mask"][hidden].float()
        chance = torch.full((count,), 0.0)
        chance[:filled], chance[filled : filled + seen] = TOKENS_WHERE_FILLED_IN, 1.0
        first, second = torch.from_numpy(rng.random((2, count)))
        tokens = (table["place"][rows] >= 0) & (first < chance)
        embedding = torch.zeros(count, table["embedding"].shape[-1])
        embedding[tokens] = table["embedding"][table["place"][rows[tokens]]].float()
        text = table["text"][rows].clone()
        text[second < torch.where(tokens, ONLY_IMAGE, NO_TEXT)] = 0
        return {
            "latents": table["latents"][rows].float(),
            "states": table["states"][text].float(),
            "known": known,
            "mask": mask,
            "embedding": embedding,
            "scale": tokens.float(),
            "times": torch.from_numpy(rng.integers(0, 1000, self.batch)),
            "noise": torch.from_numpy(rng.standard_normal((self.batch, *self.nothing.shape), dtype=np.float32)),
        }


def velocity_loss(denoiser: LatentDenoiser, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Squared error of the predicted velocity, weighted by min(SNR, 5) / (SNR + 1) (arXiv 2303.09556).

    Args:
        denoiser: of v-prediction.
        batch: of `LatentBatches`.
    """
    x0, noise, t = batch["latents"], batch["noise"], batch["times"]
    kept = denoiser.schedule.alphas_cumprod[t].to(x0)[:, None, None, None]
    a, s = kept.sqrt(), (1 - kept).sqrt()
    state = torch.cat([a * x0 + s * noise, batch["mask"], batch["known"]], 1)
    assert denoiser.image_projection is not None
    arguments = {
        "conditions": (None,),
        "latent_size": tuple(x0.shape[-2:]),
        "image_tokens": denoiser.image_projection(batch["embedding"]),
        "image_scale": batch["scale"][:, None, None],
    }
    state = state.contiguous(memory_format=torch.channels_last)
    output = denoiser.unet(state, t, batch["states"], cross_attention_kwargs=arguments).sample
    snr = kept / (1 - kept)
    weight = snr.clamp(max=SNR_LIMIT) / (snr + 1)
    return (weight * (output.float() - (a * noise - s * x0)).square()).mean()


class _Trained(nn.Module):
    """The parts that are trained: the network and the image tokens."""

    def __init__(self, denoiser: LatentDenoiser) -> None:
        super().__init__()
        self.unet, self.image_projection = denoiser.unet, denoiser.image_projection


def train_diffusion(
    folder: str | Path,
    denoiser: LatentDenoiser,
    table: dict[str, Tensor],
    *,
    steps: int,
    batch: int = 32,
    lr: float = 1e-3,
    average: float = 0.996,
    callbacks: Sequence[Any] = (),
) -> LatentDenoiser:
    """Train and give back the averaged denoiser, in eval mode and frozen.

    Args:
        folder: of checkpoints.
        denoiser: of `new_diffusion`; its autoencoder and text encoder stay as they are.
        table: of `latent_table`.
        steps: optimizer steps; the learning rate falls linearly over the last fifth.
        batch: rows a step. lr: learning rate.
        average: decay of the moving average.
        callbacks: of `fit`.
    """
    denoiser.autoencoder.requires_grad_(False).eval()
    denoiser.text.requires_grad_(False).eval()
    with torch.no_grad():
        nothing = denoiser.encode(torch.full((1, 3, denoiser.side, denoiser.side), GREY))[0]
    trained = _Trained(denoiser)
    trained.unet.to(memory_format=torch.channels_last)
    result = fit(
        lambda rows: velocity_loss(denoiser, rows), trained, LatentBatches(table, batch, nothing), steps=steps, lr=lr,
        schedule=lambda progress: min(1.0, (1 - progress) / 0.2), floor=0.01, warmup=0.02, clip=1.0, ema=average,
        precision="bfloat16", callbacks=callbacks,
        checkpoint=Checkpoint(folder, every=CHECKPOINT_EVERY, identity={"batch": batch, "lr": lr, "average": average}),
    )  # fmt: skip
    averaged = copy.deepcopy(denoiser)
    if result.ema is not None:
        _Trained(averaged).load_state_dict(cast(nn.Module, result.ema.module).state_dict())
    return averaged.requires_grad_(False).eval()


def write_diffusion(target: str | Path, denoiser: LatentDenoiser, *, steps: int, seconds: float) -> Path:
    """Write the folder in 8 bits, measure what can be read from it, and write its card.

    Args:
        target: the new folder; its name is that of the denoiser.
        denoiser: of `train_diffusion`.
        steps: it was trained for. seconds: what that took.
    """
    target = Path(target)
    card: dict[str, Any] = {
        "name": target.name,
        "summary": "draws emoji and plain shapes of 64 px from texts, and fills in; by latent diffusion",
        "recipe": "binderclip.train.bundled.generative.diffusion.train_diffusion",
        "how": f"autoencoder by the recipe beside it; network: {steps} steps of 32 pictures, emoji of six styles "
        "without flags, painted silhouettes, and plain shapes; weights in 8 bits.",
        "seconds": round(seconds),
        "trained_on": {"data_hash": {name: pack_hash(name) for name in TRAINING_PACKS}},
        "unit": "psnr: dB of the autoencoder on held-out drawings. shape, colour: share of plain shapes that rules "
        "name as the prompt does. emoji: share of pictures whose own text fits best among all texts, by a model. "
        "CMMD: to held-out emoji, by small. Guidance 3, 30 steps",
    }
    save_denoiser(denoiser, target, card=card, text_model=TEXT_MODEL)
    read = load_denoiser(target)
    held = np.stack([picture.pixels for picture in drawing_pictures("val", 1, limit=400)])
    card["figures"] = {"psnr": round(reconstruction_psnr(read.autoencoder, held), 2), **diffusion_figures(read)}
    write_whole(target / "card.json", json_text(card) + "\n")
    return target
