"""Real pictures for training `small`, from packages that carry them: none of them is shipped.

Debian's wallpaper packages (plasma-workspace-wallpapers, gnome-backgrounds, mate-backgrounds) give unlabelled
photographs; tuxpaint-stamps-default gives some 600 cut-out pictures with captions; gcompris-qt-data gives labelled ones
inside Qt resource files. A recipe names the folders; what is not named is left out.
"""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from binderclip.data import list_images, open_image
from binderclip.errors import DataError, UsageError

__all__ = [
    "OTHER_PHOTOGRAPHS",
    "PHOTOGRAPHS",
    "WALLPAPERS",
    "RealPictures",
    "distinct_pictures",
    "gcompris_photographs",
    "other_photographs",
    "photographs_in",
    "qt_resources",
    "read_real",
    "stamp_caption",
    "things_on_plain_ground",
]

WALLPAPERS = ("/usr/share/wallpapers", "/usr/share/backgrounds/mate/nature")
"""Where Debian's plasma-workspace-wallpapers and mate-backgrounds put their photographs."""
PHOTOGRAPHS = ("/usr/share/wallpapers", "/usr/share/backgrounds")
"""Those and more: also budgie-backgrounds, ukui-wallpapers, lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04."""
OTHER_PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "kalzium/data/toolpics": (
        "abzug.jpg", "becherglas.jpg", "brechungsmesser.jpg", "brenner.jpg", "dsc.jpg", "erlenmeyerkolben.jpg",
        "exikator.jpg", "hplc.jpg", "moerser.jpg", "phpapier.jpg", "rg-staender.jpg", "rotationsverdampfer.jpg",
        "rundkolben.jpg", "spatel.jpg", "tonschale.jpg", "verteiler.jpg", "waage.jpg",
    ),
    "libjxl-testdata": (
        "external/wesaturate/500px/cvo9xd_keong_macan_srgb8.png", "external/wesaturate/500px/u76c0g_bliznaca_srgb8.png",
        "external/wesaturate/500px/tmshre_riaphotographs_srgb8.png", "jxl/flower/flower.png", "jxl/hdr_room.png",
        "jxl/jpeg_reconstruction/bicycles_restarts.jpg", "jxl/jpeg_reconstruction/sideways_bench.jpg",
    ),
    "doc/opencv-doc/examples": (
        "alphamat/input_images/plant.jpg", "data/aero1.jpg", "data/aloeL.jpg", "data/apple.jpg", "data/baboon.jpg",
        "data/board.jpg", "data/building.jpg", "data/butterfly.jpg", "data/fruits.jpg", "data/graf1.png",
        "data/home.jpg", "data/left.jpg", "data/leuvenA.jpg", "data/messi5.jpg", "data/orange.jpg",
        "data/rubberwhale1.png", "data/squirrel_cls.jpg", "data/stuff.jpg", "data/sudoku.png",
        "dnn_superres/butterfly.png", "hfs/data/000.jpg", "hfs/data/001.jpg", "hfs/data/002.jpg", "reg/home.png",
        "text/scenetext01.jpg", "text/scenetext02.jpg", "text/scenetext03.jpg", "text/scenetext04.jpg",
        "text/scenetext05.jpg", "text/scenetext06.jpg",
    ),
    "palapeli/collection": (
        "castle-maintenon.jpg", "cincinnati-bridge.jpg", "citrus-fruits.jpg", "european-honey-bee.jpg",
        "panther-chameleon-female.jpg",
    ),
    "stellarium": (
        "landscapes/garching/garching-ground3.png", "landscapes/guereins/guereinsb.png",
        "scenery3d/Sterngarten/Sterngarten_20100320.png",
        "scenery3d/Sterngarten/Sterngarten_Wien_innerArea/Vegetation_Juniper2.jpg",
        "scenery3d/Testscene/TX_Stellarium-Testscene/Bodenbelag_Schotter_Indisch.jpg",
        "scenery3d/Testscene/TX_Stellarium-Testscene/Bodenbelag_Stein_Schotter_5cm.jpg",
        "scenery3d/Testscene/TX_Stellarium-Testscene/Stein_Mauerwerk_mehrfarbig.jpg",
        "scenery3d/Testscene/TX_Stellarium-Testscene/Stein_Platte_Quaderstein.jpg",
        "scenery3d/Testscene/TX_Stellarium-Testscene_withGrid/Stein_Mauerwerk_mehrfarbig.png",
    ),
    "tuxpaint": (
        "starters/reef-back.png", "starters/skyline-sf-dusk-back.jpeg", "templates/burnt_bark.jpg",
        "templates/cliff.jpg", "templates/clouds_from_airplane.jpg", "templates/corn_maze.jpg",
        "templates/jellyfish.jpg", "templates/lighthouse.jpg", "templates/lough_leane.jpg", "templates/mossy_bark.jpg",
        "templates/mossy_log.jpg", "templates/mudstone.jpg", "templates/ocean_splash.jpg", "templates/ocean_waves.jpg",
        "templates/redwoods_above.jpg", "templates/rocks.jpg", "templates/sheep.jpg", "templates/spiders_web.jpg",
        "templates/sun_behind_clouds.jpg", "templates/sun_behind_leaves.jpg", "templates/trees_above.jpg",
        "templates/trees_at_dusk.jpg", "templates/wool_mill_machine.jpg",
    ),
}  # fmt: skip
"""Of `/usr/share`, photographs among other pictures of kalzium-data, libjxl-testdata, opencv-doc, palapeli-data,
stellarium-data and tuxpaint-data."""
STAMPS, STAMP, STAMP_COLOURS = ("animals", "food", "plants", "space"), 160, 1000
"""Folders of Tux Paint's stamps that hold photographs, the shorter side of one in pixels, and its colours, at least."""
CROP, CUTOUT = 224, 128
PHOTOGRAPH, COLOURS = 200, 2000
"""Of a photograph of GCompris: its shorter side in pixels, and different colours of its 64 x 64 thumbnail, at least."""
GCOMPRIS = ("categorization", "erase", "explore_monuments", "explore_world_animals", "explore_farm_animals", "lang")


@dataclass(frozen=True)
class RealPictures:
    """Square crops of photographs ("" where nothing says what they show), and captioned cut-outs with alpha."""

    crops: UInt8[Tensor, "P 3 224 224"]
    crop_captions: tuple[str, ...]
    cutouts: UInt8[Tensor, "Q 4 128 128"]
    cutout_captions: tuple[str, ...]


def stamp_caption(line: str) -> str:
    """Tux Paint's description without article, remark in brackets and full stop: 'A dog.' -> 'dog'."""
    text = re.sub(r"\(.*?\)", "", line)
    return re.sub(r"^(An?|The|Some) ", "", text.strip()).rstrip(".! ").strip().lower()


def qt_resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every uncompressed file inside a Qt resource file (`.rcc`).

    Raises:
        DataError: not such a file.
    """
    data = path.read_bytes()
    if data[:4] != b"qres":
        raise DataError(f"{path} is no Qt resource file")
    version, tree, contents, names = struct.unpack(">4i", data[4:20])
    width = 22 if version >= 2 else 14

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        offset, flags = struct.unpack(">iH", data[tree + index * width :][:6])
        name = ""
        if index:
            (length,) = struct.unpack(">H", data[names + offset :][:2])
            name = data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")
        if flags & 2:
            count, first = struct.unpack(">ii", data[tree + index * width + 6 :][:8])
            for child in range(first, first + count):
                yield from walk(child, f"{prefix}/{name}" if name else prefix)
        elif not flags & 5:  # neither zlib nor zstd
            (place,) = struct.unpack(">i", data[tree + index * width + 10 :][:4])
            (size,) = struct.unpack(">i", data[contents + place :][:4])
            yield f"{prefix}/{name}", data[contents + place + 4 : contents + place + 4 + size]

    yield from walk(0, "")


def _file_caption(name: str) -> str:
    """'explore/resource/usa/lincolnMemorial2.webp' -> 'lincoln memorial'."""
    stem = re.sub(r"\d+$", "", name.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return re.sub(r"[\s_-]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)).strip().lower()


def _gcompris(folder: Path) -> Iterator[tuple[Image.Image, str]]:
    for part in GCOMPRIS:
        for name, content in qt_resources(folder / f"{part}.rcc"):
            prefix = {"categorization": "/images/", "lang": "words"}.get(part, "")
            if not name.endswith((".webp", ".png", ".jpg")) or prefix not in name:
                continue
            image = open_image(io.BytesIO(content), mode="RGBA")
            if min(image.size) >= 90:
                yield image, _file_caption(name)


def gcompris_photographs(folder: Path) -> list[tuple[str, Image.Image]]:
    """(name, picture) of the photographs in GCompris's `rcc` folder: opaque, and of many colours, as drawings are not.

    Its parts with things, fishes, buildings, animals and concerts are looked at; others hold paintings and cut-outs.

    Raises:
        UsageError: no such folder, or no photograph in it.
    """
    photographs: dict[bytes, tuple[str, Image.Image]] = {}
    for part in [folder / f"{name}.rcc" for name in (*GCOMPRIS, "explore_world_music")]:
        if not part.is_file():
            raise UsageError(f"there is no file {part}: the folder of GCompris's resources is needed")
        for name, content in qt_resources(part):
            if not name.endswith((".webp", ".png", ".jpg", ".jpeg")) or content in photographs:
                continue
            image = open_image(io.BytesIO(content), mode="RGBA")
            if min(image.size) < PHOTOGRAPH or image.getextrema()[3][0] <= 250:  # type: ignore[index,misc]
                continue
            image = image.convert("RGB")
            if len(set(image.resize((64, 64)).getdata())) >= COLOURS:
                photographs[content] = (f"{part.stem}-{Path(name).stem}", image)
    if not photographs:
        raise UsageError(f"there are no photographs of GCompris in {folder}")
    return list(photographs.values())


def _stamps(folder: Path) -> Iterator[tuple[Image.Image, str]]:
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        if "symbols" in path.parts or path.stem.endswith(("_mirror", "_flip")) or not text.exists():
            continue
        caption = stamp_caption(text.read_text(encoding="utf-8").partition("\n")[0])
        if 2 < len(caption) < 50:
            yield open_image(path, mode="RGBA"), caption


def distinct_pictures(paths: Sequence[Path]) -> list[Path]:
    """Of a picture in several sizes in one folder ('1920x1080.jpg') the largest; no previews."""
    sized: dict[Path, list[Path]] = {}
    plain = []
    for path in paths:
        if re.fullmatch(r"\d+x\d+", path.stem):
            sized.setdefault(path.parent, []).append(path)
        elif path.stem != "screenshot":
            plain.append(path)
    return sorted([*plain, *(max(group, key=lambda path: path.stat().st_size) for group in sized.values())])


def photographs_in(folders: Sequence[str]) -> list[Path]:
    """The distinct pictures of folders, in order.

    Raises:
        UsageError: a folder that is not there, or no picture in any.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"folders: there is no folder {folder}")
    paths = [path for folder in folders for path in distinct_pictures(list_images(Path(folder)))]
    if not paths:
        raise UsageError(f"folders: no picture in {', '.join(folders)}")
    return paths


def other_photographs(share: str | Path = "/usr/share") -> list[Path]:
    """The files of `OTHER_PHOTOGRAPHS`, in order.

    Raises:
        UsageError: one that is not there.
    """
    paths = [Path(share) / folder / name for folder, names in OTHER_PHOTOGRAPHS.items() for name in names]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"share: there is no photograph {path}")
    return paths


def things_on_plain_ground(stamps: Path, *, seed: int = 0) -> list[Image.Image]:
    """Photographs of Tux Paint's animals, food, plants and planets, each before a plain ground as in a studio.

    Half of the grounds are white; one side is up to 8 % darker than the other.

    Args:
        stamps: the folder of the stamps.
        seed: of the grounds.

    Raises:
        UsageError: no such folder, or nothing of them in it.
    """
    rng, pictures = np.random.default_rng(seed), []
    for path in [path for name in STAMPS for path in sorted((stamps / name).rglob("*.png"))]:
        if path.stem.endswith(("_mirror", "_flip")):
            continue
        thing = open_image(path, mode="RGBA")
        if min(thing.size) < STAMP:
            continue
        colour = 255 if rng.random() < 0.5 else rng.integers(40, 256, 3)
        light = np.linspace(1, 1 - rng.uniform(0, 0.08), thing.height)
        rows = (light[:, None] * np.broadcast_to(colour, 3)).round().astype(np.uint8)  # (h, 3)
        ground = Image.fromarray(np.repeat(rows[:, None], thing.width, 1)).convert("RGBA")
        ground.alpha_composite(thing)
        picture = ground.convert("RGB")
        if len(set(picture.resize((64, 64)).getdata())) >= STAMP_COLOURS:
            pictures.append(picture)
    if not pictures:
        raise UsageError(f"stamps: there are no photographs of Tux Paint's stamps in {stamps}")
    return pictures


def _square(image: Image.Image, side: int) -> UInt8[Tensor, "C H W"]:
    pixels = torch.frombuffer(
        bytearray(image.resize((side, side), Image.Resampling.BICUBIC).tobytes()), dtype=torch.uint8
    )
    return pixels.view(side, side, -1).permute(2, 0, 1).contiguous()


def _crop(image: Image.Image, least: float, chance: random.Random) -> Image.Image:
    side = int(chance.uniform(least, 1.0) * min(image.size))
    x, y = chance.randint(0, image.width - side), chance.randint(0, image.height - side)
    part = image.crop((x, y, x + side, y + side))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance.random() < 0.5 else part


def _padded(image: Image.Image) -> Image.Image:
    """The visible part, centred in a transparent square."""
    image = image.crop(image.getbbox() or (0, 0, *image.size))
    side = max(image.size)
    out = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def read_real(
    photographs: Sequence[str],
    stamps: str | None,
    gcompris: str | None,
    *,
    forbidden: Collection[str] = (),
    crops: int = 26,
    seed: int = 0,
) -> RealPictures:
    """Crops and cut-outs from folders of the packages named above.

    Args:
        photographs: folders of unlabelled photographs. stamps: Tux Paint's `stamps` folder. gcompris: its `rcc` folder.
        forbidden: captions of held-out pictures; a labelled picture of that name is left out.
        crops: crops of each unlabelled photograph; labelled ones give eight.
        seed: of the crops.

    Raises:
        UsageError: a folder that is not there, or nothing named at all.
    """
    for folder in [*photographs, *([stamps] if stamps else []), *([gcompris] if gcompris else [])]:
        if not Path(folder).is_dir():
            raise UsageError(f"photographs: there is no folder {folder}")
    chance = random.Random(seed)
    squares: list[Tensor] = []
    captions: list[str] = []
    for path in [path for folder in photographs for path in distinct_pictures(list_images(Path(folder)))]:
        image = open_image(path)
        image.thumbnail((1600, 1600))
        squares += [_square(_crop(image, 0.25, chance), CROP) for _ in range(crops)]
        captions += [""] * crops
    cutouts: list[Tensor] = []
    names: list[str] = []
    labelled = [*(_gcompris(Path(gcompris)) if gcompris else ()), *(_stamps(Path(stamps)) if stamps else ())]
    for image, caption in labelled:
        if caption in forbidden:
            continue
        if image.getextrema()[3][0] > 250:  # type: ignore[index]
            squares += [_square(_crop(image.convert("RGB"), 0.55, chance), CROP) for _ in range(8)]
            captions += [caption] * 8
        else:
            cutouts.append(_square(_padded(image), CUTOUT))
            names.append(caption)
    if not squares or not cutouts:
        raise UsageError("photographs: the folders hold no photograph, or no cut-out picture with alpha")
    return RealPictures(torch.stack(squares), tuple(captions), torch.stack(cutouts), tuple(names))
