"""Every odd kind of file is made here with Pillow, and what comes out is compared with the picture it was made from."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from binderclip.data import IMAGE_FORMATS, list_images, open_image, to_tensor
from binderclip.data.heif import teach_heif
from binderclip.errors import DataError, UsageError


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    """A smooth picture whose corners differ, so that lossy formats keep it and a turned copy is seen."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(header: tuple[int, int, int, int], rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand: (width, height, bit depth, colour type), filtered rows, extra chunks before the data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *(chunk(*extra) for extra in chunks)]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


# --- sources ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    array = picture()
    image = Image.fromarray(array)
    data = encoded(image, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    with open(tmp_path / "a.png", "rb") as handle:
        sources = [
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            data,
            handle,
            image,
            array,
            array.astype(np.float32) / 255,
            array.astype(np.uint16) * 257,
            torch.from_numpy(array).permute(2, 0, 1),
            torch.from_numpy(array).permute(2, 0, 1) / 255,
        ]
        for source in sources:
            opened = open_image(source)
            assert opened.mode == "RGB"
            assert np.array_equal(np.asarray(opened), array), type(source)
        assert not handle.closed


def test_a_given_pil_image_is_left_alone() -> None:
    image = Image.new("RGB", (4, 3), (1, 2, 3))
    opened = open_image(image)
    opened.putpixel((0, 0), (9, 9, 9))
    assert image.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3,), (5, 4, 3), (0, 4)])
def test_tensors_that_are_not_one_image_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        open_image(torch.zeros(shape))


def test_float_values_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(UsageError, match="0 to 255"):
        open_image(np.array([[0.0, 255.0]]))
    with pytest.raises(UsageError, match="int64"):
        open_image(np.array([[0, 255]]))
    with pytest.raises(UsageError, match="nan"):
        open_image(np.array([[0.0, np.nan]]))


def test_addresses_and_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="does not download"):
        open_image("https://example.org/cat.png")
    with pytest.raises(UsageError, match="int"):
        open_image(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'L'"):
        open_image(picture(), mode="L")  # type: ignore[arg-type]


# --- orientation -----------------------------------------------------------------------------------------------------

# What a viewer does with the stored pixels for each value of the tag (TIFF 6.0, p. 36), written with array operations.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}, "TIFF": {}}[kind]
    opened = np.asarray(open_image(encoded(Image.fromarray(picture()), kind, exif=exif, **options))).astype(int)
    expected = UPRIGHT[orientation](picture())
    assert opened.shape == expected.shape
    assert np.abs(opened - expected).max() <= (6 if kind == "JPEG" else 0)


def test_a_broken_orientation_block_does_not_lose_the_picture() -> None:
    data = encoded(Image.fromarray(picture()), "PNG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(open_image(data)), picture())


# --- depth and colour ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    grey = np.asarray(open_image(encoded(Image.fromarray(values), kind)))
    assert np.array_equal(grey[..., 0], np.arange(256).reshape(16, 16))
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_a_dark_sixteen_bit_picture_stays_dark() -> None:
    values = np.full((4, 4), 257 * 10, np.uint16)
    assert np.asarray(open_image(encoded(Image.fromarray(values), "PNG"))).max() == 10


def test_sixteen_bit_rgb_is_scaled() -> None:
    levels = np.arange(256, dtype=np.uint16) * 257
    row = np.stack([levels, levels[::-1], levels], -1)
    rows = b"\x00" + row.astype(">u2").tobytes()
    opened = np.asarray(open_image(png((256, 1, 16, 2), rows)))
    assert np.array_equal(opened[0, :, 0], np.arange(256))
    assert np.array_equal(opened[0, :, 1], np.arange(255, -1, -1))


def test_the_transparent_colour_of_sixteen_bit_pictures() -> None:
    grey = np.array([[0, 30000, 65535]], np.uint16)
    data = png((3, 1, 16, 0), b"\x00" + grey.astype(">u2").tobytes(), (b"tRNS", struct.pack(">H", 30000)))
    assert np.asarray(open_image(data, background=(1, 2, 3)))[0].tolist() == [[0, 0, 0], [1, 2, 3], [255, 255, 255]]
    rgb = np.array([[[0, 0, 0], [65535, 0, 0]]], np.uint16)
    data = png((2, 1, 16, 2), b"\x00" + rgb.astype(">u2").tobytes(), (b"tRNS", struct.pack(">HHH", 65535, 0, 0)))
    assert np.asarray(open_image(data, background=(1, 2, 3)))[0].tolist() == [[0, 0, 0], [1, 2, 3]]


def test_float_and_32_bit_tiff() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for values in (ramp, ramp * 1000 - 500, (ramp * 70000).astype(np.int32)):
        opened = np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))
        assert np.abs(opened[..., 0].astype(int).ravel() - np.arange(256)).max() <= 1


def test_cmyk_without_a_profile_follows_the_plain_formula() -> None:
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # all cyan ink: no red light
    red, green, blue = open_image(encoded(cmyk, "TIFF")).getpixel((0, 0))
    assert (red, green, blue) == (0, 255, 255)
    jpeg = open_image(encoded(cmyk, "JPEG", quality=95)).getpixel((4, 4))
    assert np.abs(np.array(jpeg) - [0, 255, 255]).max() <= 4


def test_a_profile_that_is_no_profile_is_passed_over() -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "TIFF", icc_profile=b"not a profile")
    assert open_image(data).getpixel((0, 0)) == (0, 0, 0)


def test_lab_goes_through_colour_management() -> None:
    rgb = Image.new("RGB", (4, 4), (200, 50, 50))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(rgb, to_lab)
    assert np.abs(np.array(open_image(lab).getpixel((0, 0))) - [200, 50, 50]).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "RGBX", "PA", "LA", "La", "RGBa"])
def test_every_other_mode_becomes_rgb(mode: str) -> None:
    source = Image.new("RGBA" if mode in ("PA", "LA", "La", "RGBa") else "RGB", (6, 5), (255, 255, 255))
    image = source.convert("LA").convert(mode) if mode in ("PA", "La") else source.convert(mode)
    opened = open_image(image)
    assert opened.mode == "RGB"
    assert opened.getpixel((3, 3)) == (255, 255, 255)
    assert open_image(image, mode="RGBA").mode == "RGBA"


# --- transparency ----------------------------------------------------------------------------------------------------


def half_transparent() -> Image.Image:
    array = np.zeros((4, 4, 4), np.uint8)
    array[..., 0] = 200
    array[:, 2:, 3] = 255
    array[:, 1, 3] = 128
    return Image.fromarray(array)


def test_alpha_is_composited_on_the_background() -> None:
    opened = np.asarray(open_image(encoded(half_transparent(), "PNG"), background=(0, 100, 0)))
    assert opened[0, 0].tolist() == [0, 100, 0]
    assert opened[0, 3].tolist() == [200, 0, 0]
    blend = np.array([200, 0, 0]) * 128 / 255 + np.array([0, 100, 0]) * 127 / 255
    assert np.abs(opened[0, 1] - blend).max() <= 1
    assert np.asarray(open_image(encoded(half_transparent(), "PNG")))[0, 0].tolist() == [255, 255, 255]


def test_rgba_keeps_straight_colours() -> None:
    opened = np.asarray(open_image(encoded(half_transparent(), "PNG"), mode="RGBA"))
    assert np.array_equal(opened, np.asarray(half_transparent()))
    assert open_image(encoded(half_transparent(), "PNG"), mode="auto").mode == "RGBA"
    assert open_image(picture(), mode="auto").mode == "RGB"


def test_palette_with_one_transparent_entry_and_with_an_alpha_table() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for transparency in (1, b"\xff\x00"):
        opened = np.asarray(open_image(encoded(image, "PNG", transparency=transparency), background=(9, 9, 9)))
        assert opened[0].tolist() == [[255, 0, 0], [9, 9, 9]], transparency


def test_grey_and_rgb_with_a_transparent_colour() -> None:
    grey = Image.fromarray(np.array([[10, 20]], np.uint8))
    assert np.asarray(open_image(encoded(grey, "PNG", transparency=20)))[0].tolist() == [[10] * 3, [255] * 3]
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert np.asarray(open_image(encoded(rgb, "PNG", transparency=(4, 5, 6))))[0].tolist() == [[1, 2, 3], [255] * 3]


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_of_an_animation(kind: str, options: dict) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)
    assert open_image(data).getpixel((4, 4)) == (255, 0, 0)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png((60_000, 60_000, 8, 0), b""))  # there are no pixels to decode: the header must be enough
    with pytest.raises(DataError, match=r"bomb\.png.*decompression bomb"):
        open_image(bomb)
    small = encoded(Image.new("L", (50, 50)), "PNG")
    with pytest.raises(DataError, match=r"50 x 50.*2,500 pixels.*limit of 2,499"):
        open_image(small, max_pixels=2499)
    assert open_image(small, max_pixels=2500).size == (50, 50)
    with pytest.raises(DataError, match="limit of 10"):
        open_image(np.zeros((4, 4)), max_pixels=10)


def test_a_text_bomb_inside_a_png_is_refused() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 10), zip=True)
    with pytest.raises(DataError, match="damaged"):
        open_image(encoded(Image.new("L", (4, 4)), "PNG", pnginfo=text))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "damaged image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x89PNG\r\n\x1a\nrubbish", "damaged image"),
        (b"\x80\x04\x95pickled", "not an image"),
    ],
)
def test_what_is_not_an_image_is_named_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "thing.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"thing\.png: .*{reason}"):
        open_image(path)


def heic(image: Image.Image, orientation: int = 1) -> bytes:
    """A picture as telephones save it, in a program of its own: the plug-in stays unknown to Pillow here."""
    code = """
import io, sys
import pillow_heif
from PIL import Image
image = Image.open(io.BytesIO(sys.stdin.buffer.read()))
exif = Image.Exif()
exif[0x112] = int(sys.argv[1])
image.info["exif"] = exif.tobytes()
pillow_heif.register_heif_opener()
image.save(sys.stdout.buffer, "HEIF", quality=95)
"""
    command = [sys.executable, "-c", code, str(orientation)]
    return subprocess.run(command, input=encoded(image, "PNG"), capture_output=True, check=True).stdout


def test_pictures_of_telephones_open_upright(tmp_path: Path) -> None:
    """6 says that the top of what is seen is at the right of what is stored; the corners tell them apart."""
    array = picture(48, 64)
    (tmp_path / "a.heic").write_bytes(heic(Image.fromarray(array), 6))
    assert [path.name for path in list_images(tmp_path)] == ["a.heic"]
    seen = np.asarray(open_image(tmp_path / "a.heic")).astype(int)
    assert seen.shape == (64, 48, 3)
    # The code stores a turned picture and turns it back, at most a few grey levels off.
    assert np.abs(seen - np.rot90(array, -1)).mean() < 4
    data = (tmp_path / "a.heic").read_bytes()
    assert np.array_equal(np.asarray(open_image(io.BytesIO(data))), seen)
    with pytest.raises(DataError, match="limit of 100"):
        open_image(data, max_pixels=100)
    for length in (40, 400, len(data) - 40):
        with pytest.raises(DataError, match="damaged"):
            open_image(data[:length])


def test_what_another_thread_has_taught_pillow_meanwhile_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thread 2 asks Pillow, which knows no HEIC; thread 1 teaches it; thread 2 asks whether it can be taught."""
    array = picture(48, 64)
    data = heic(Image.fromarray(array))
    opened = Image.open

    def late(source: object, formats: list[str]) -> Image.Image:
        if formats != ["HEIF"]:
            teach_heif()
            raise UnidentifiedImageError("asked before it was taught")
        return opened(source, formats=formats)

    monkeypatch.setattr(Image, "open", late)
    assert np.abs(np.asarray(open_image(data)).astype(int) - array).mean() < 4


def test_without_the_plug_in_pictures_of_telephones_are_told_how_to_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.HEIC"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(DataError, match=r'a\.HEIC: a HEIC picture.*pip install "binderclip\[heic\]"'):
        open_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_errors_not_half_pictures(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"cut\.{kind.lower()}: .*damaged"):
        open_image(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        open_image("nul\x00byte.png")


SEEDS = [
    encoded(Image.fromarray(picture()), "PNG"),
    encoded(Image.fromarray(picture()), "JPEG"),
    encoded(Image.fromarray(picture()), "GIF"),
    encoded(Image.fromarray(picture()), "WEBP"),
    encoded(Image.fromarray(picture()), "TIFF"),
    encoded(half_transparent().quantize(4), "PNG"),
    encoded(Image.new("CMYK", (9, 9)), "JPEG"),
]


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
)
def test_damaged_bytes_give_a_picture_or_a_data_error(data: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for position, value in edits:
        damaged[position % len(damaged)] = value
    opened = None
    with contextlib.suppress(DataError):  # the only exception that may come out
        opened = open_image(bytes(damaged[: len(data) - cut % 40]), max_pixels=1_000_000)
    if opened is not None:
        assert opened.mode == "RGB"
        assert np.asarray(opened).shape == (opened.height, opened.width, 3)


# --- reduced decoding, tensors, folders ------------------------------------------------------------------------------


def test_size_hint_decodes_smaller_never_smaller_than_asked() -> None:
    y, x = np.mgrid[0:480, 0:640]
    waves = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), x / 3], -1).astype(np.uint8)
    data = encoded(Image.fromarray(waves), "JPEG", quality=95)
    hinted = open_image(data, size_hint=100)
    assert hinted.size == (160, 120)
    assert open_image(data, size_hint=300).size == (640, 480)
    whole = open_image(data).resize((160, 120), Image.Resampling.BOX)
    difference = np.asarray(hinted).astype(float) - np.asarray(whole)
    assert np.abs(difference).mean() < 2


def test_to_tensor() -> None:
    tensor = to_tensor(Image.fromarray(picture(5, 7)))
    assert tensor.shape == (3, 5, 7)
    assert tensor.dtype == torch.float32
    assert torch.equal((tensor * 255).round().to(torch.uint8), torch.from_numpy(picture(5, 7)).permute(2, 0, 1))
    assert to_tensor(Image.new("L", (3, 2), 255)).tolist() == [[[1.0] * 3] * 2]
    with pytest.raises(UsageError, match="float64"):
        to_tensor(np.zeros((2, 2)))


def test_list_images(tmp_path: Path) -> None:
    for name in ["b/2.JPG", "a.png", "b/10.webp", ".hidden.png", ".git/x.png", "__MACOSX/a.png", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == [
        "a.png",
        "b/10.webp",
        "b/2.JPG",
    ]
    for without, kept in [
        (tmp_path / "b", ["a.png"]),
        (tmp_path / "b/../b", ["a.png"]),
        (tmp_path / "gone", ["a.png", "b/10.webp", "b/2.JPG"]),
        # What lies in the folder itself, or around it, cannot be told apart.
        (tmp_path, ["a.png", "b/10.webp", "b/2.JPG"]),
        (tmp_path.parent, ["a.png", "b/10.webp", "b/2.JPG"]),
    ]:
        assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path, without=without)] == kept
    with pytest.raises(DataError, match="there is no folder"):
        list_images(tmp_path / "gone")
    with pytest.raises(DataError, match="not a folder"):
        list_images(tmp_path / "a.png")


# --- formats ----------------------------------------------------------------------------------------------------------


def eps(side: int = 12) -> bytes:
    """What Pillow would hand to Ghostscript."""
    return encoded(Image.new("RGB", (side, side), (200, 30, 30)), "EPS")


def test_a_postscript_file_is_never_opened_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    from binderclip.data import LabelFolder, read_mask
    from binderclip.tasks.arguments.boxes import read_masks

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was called"))
    path = tmp_path / "picture.png"
    path.write_bytes(eps())
    with Image.open(path) as known:
        assert known.format == "EPS"
    for source in (path, eps(), io.BytesIO(eps())):
        with pytest.raises(DataError, match="PostScript"):
            open_image(source)
    with pytest.raises(DataError):
        read_masks([str(path)], (12, 12))
    with pytest.raises(DataError):
        read_mask(path, (12, 12))
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    path.rename(tmp_path / "labels" / "a.png")
    Image.new("RGB", (12, 12)).save(tmp_path / "images" / "a.jpg")
    folder = LabelFolder(tmp_path, ["cat"])
    assert list(folder) == []
    assert "label map" in folder.skipped[0][1]


def test_every_format_that_is_listed_and_can_be_written_is_opened() -> None:
    Image.init()
    made = [name for name in IMAGE_FORMATS if name in Image.SAVE and name in Image.OPEN]
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"} <= set(made)
    for name in made:
        assert open_image(encoded(Image.new("RGB", (16, 16), (0, 0, 255)), name)).size == (16, 16), name


def test_no_other_place_lets_pillow_guess_the_format() -> None:
    """Files of users are opened by `open_header`; `Image.open` stands only where the bytes are our own."""
    import binderclip

    root = Path(binderclip.__file__).parent
    # maker.py looks for our own mark in a header, and names its three formats.
    own = {"tasks/report/sheet.py", "tasks/files/maker.py", "data/distortions/arniqa.py",
           "data/synthetic_scenes/vocabulary.py",
           "data/distortions/kinds.py", "studies/harness/report.py", "data/images.py",
           "train/bundled/data/damaged_folder.py"}  # fmt: skip
    guessing = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8") and "studies/papers" not in path.as_posix()
    }
    assert guessing == own
