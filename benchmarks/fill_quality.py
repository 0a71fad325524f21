"""Which fill `erase` takes by default: holes whose content is known, in photographs of a folder.

    python -m benchmarks.fill_quality FOLDER [--third 1]

Ellipses of 2 to 10 % of a picture, which is reduced to 640 px, hide what is there; `fill` (biharmonic), `patches`
(`generate.patch_fill`) and OpenCV's `INPAINT_TELEA`, where it is installed, paint it. Two holes a picture. LPIPS
(ImageNet trunk, the bundled `lite0`) compares a square around the hole, PSNR the hole alone. A third of the pictures,
by the SHA-256 of their names, was looked at while the method was made (0); the choice is made on another one (1).

`patches` becomes the default if, over the pictures of third 1, LPIPS is lower (95 % interval of the mean difference to
`fill` below 0) and the mean PSNR is not lower by more than 1 dB. Written down before that third was measured.

Measured on the 30 wallpapers of that third of Debian's and Ubuntu's packages: LPIPS of `fill` .742, `patches` .592,
`telea` .831; PSNR 26.7, 27.1 and 24.4 dB; `patches` minus `fill` -.151 +- .067 and +.42 +- .99 dB: the default.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from binderclip.data import list_images, open_image, to_tensor
from binderclip.generate import biharmonic_fill, patch_fill
from binderclip.quality import LPIPS
from binderclip.tasks.retouching import painted, window_around

SIDE, HOLES, FILL_SIDE, LEAST = 640, 2, 256, 128


def ellipses(size: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
    """(H, W) of bool: three that overlap, somewhere in the middle half of the picture."""
    hole = Image.new("L", size)
    shorter = min(size)
    x, y = rng.uniform(0.25, 0.75) * size[0], rng.uniform(0.25, 0.75) * size[1]
    for _ in range(3):
        (across, down), (right, below) = rng.uniform(0.06, 0.16, 2) * shorter, rng.uniform(-0.1, 0.1, 2) * shorter
        ImageDraw.Draw(hole).ellipse(
            (x + right - across, y + below - down, x + right + across, y + below + down), fill=255
        )
    return torch.from_numpy(np.array(hole) > 0)


def fills(picture: Image.Image, hole: torch.Tensor) -> dict[str, tuple[Image.Image, float]]:
    """The picture of each method, and its processor seconds."""
    left, top, right, bottom = window_around(hole, FILL_SIDE)
    methods = {
        "fill": lambda: painted(picture, hole, lambda x, m: biharmonic_fill(x, m).clamp(0, 1), FILL_SIDE),
        "patches": lambda: painted(picture, hole, patch_fill, max(right - left, bottom - top), square=False),
    }
    try:
        import cv2

        methods["telea"] = lambda: Image.fromarray(
            cv2.inpaint(np.array(picture), hole.numpy().astype(np.uint8), 5, cv2.INPAINT_TELEA)
        )
    except ImportError:
        pass
    results = {}
    for name, method in methods.items():
        start = time.process_time()
        results[name] = method(), time.process_time() - start
    return results


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--third", type=int, default=1)
    options = parser.parse_args()
    metric = LPIPS("lite0", "vanilla")
    rows: dict[str, list[list[float]]] = {}
    for path in list_images(options.folder):
        number = int(hashlib.sha256(Path(path).name.encode()).hexdigest(), 16)
        if number % 3 != options.third:
            continue
        picture = open_image(path)
        picture.thumbnail((SIDE, SIDE))
        rng = np.random.default_rng(number % 2**32)
        figures: dict[str, list[list[float]]] = {}
        for _ in range(HOLES):
            hole = ellipses(picture.size, rng)
            window = window_around(hole, LEAST)
            before = np.asarray(picture).astype(float)[hole.numpy()] / 255
            for name, (after, seconds) in fills(picture, hole).items():
                error = np.square(np.asarray(after).astype(float)[hole.numpy()] / 255 - before).mean()
                distance = metric(*(to_tensor(one.crop(window))[None] for one in (after, picture)))
                figures.setdefault(name, []).append([float(distance), -10 * np.log10(max(error, 1e-6)), seconds])
        for name, values in figures.items():
            rows.setdefault(name, []).append(list(np.mean(values, 0)))
        print(
            Path(path).name,
            {name: [round(value, 3) for value in values[-1]] for name, values in rows.items()},
            flush=True,
        )
    for name, values in rows.items():
        lpips, psnr, seconds = np.mean(values, 0)
        difference = np.asarray(values)[:, :2] - np.asarray(rows["fill"])[:, :2]
        half = 1.96 * difference.std(0, ddof=1) / len(values) ** 0.5
        print(
            f"{name}: {len(values)} pictures, LPIPS {lpips:.3f}, PSNR {psnr:.2f} dB, {seconds:.1f} s; minus fill: "
            f"LPIPS {difference[:, 0].mean():+.3f} +- {half[0]:.3f}, "
            f"PSNR {difference[:, 1].mean():+.2f} +- {half[1]:.2f}"
        )


if __name__ == "__main__":
    main()
