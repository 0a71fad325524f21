"""Contact sheets: pictures in a grid, each on a card with a line of text; and the strip below a single picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.data.lettering import ellipsized, font_for
from binderclip.errors import DataError
from binderclip.files import write_whole
from binderclip.tasks.files.maker import picture_options

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.data import ImageTextDataset

INK, SOFT, CARD = (29, 31, 35), (110, 117, 128), (243, 245, 248)


def contact_sheet(
    entries: Sequence[tuple[Any, str, str]],
    out: str | Path,
    *,
    title: str = "",
    columns: int = 6,
    side: int = 200,
    most: int = 60,
    names: Sequence[str] = (),
    frames: Sequence[tuple[float, float, float, float]] = (),
) -> Path:
    """Save pictures in a grid with a caption under each; cards are no higher than the highest picture needs.

    Args:
        entries: (anything `open_image` takes, caption, a figure in grey after it); the first `most` are drawn.
        out: path of the PNG.
        title: a line above the grid.
        columns: pictures in a row.
        side: width of a picture's card and its greatest height, in pixels.
        most: most pictures drawn.
        names: of the pictures, such as file names, each in grey below its caption; empty for none.
        frames: (left, top, right, bottom) of what the model saw of each, as shares of its width and height; a frame is
            drawn where that is not all. Empty for none.
    """
    from PIL import Image, ImageDraw

    from binderclip.data.images import contained, open_image

    entries = list(entries)[:most]
    columns = min(columns, len(entries))
    rows = -(-len(entries) // columns)
    gap, head = 14, 40 if title else 0
    text = 26 if any(caption or figure for _, caption, figure in entries) else 0
    font, fine = font_for([caption for _, caption, _ in entries], 15), font_for(names, 12)
    below, text = text, text + 16 * bool(names)
    pictures = [contained(open_image(source), side) for source, _, _ in entries]
    high = max((picture.height for picture in pictures), default=side)
    width = columns * (side + gap) + gap
    sheet = Image.new("RGB", (width, head + rows * (high + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        large = font_for(title, 20)
        draw.text((gap, gap), ellipsized(title, large, width - 2 * gap), fill=INK, font=large)
    for index, ((_, caption, figure), picture) in enumerate(zip(entries, pictures, strict=True)):
        x = gap + index % columns * (side + gap)
        y = head + gap + index // columns * (high + text + gap)
        draw.rectangle((x, y, x + side - 1, y + high - 1), fill=CARD)
        if frames:
            _frame(picture, frames[index])
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (high - picture.height) // 2))
        tail = draw.textlength(figure, font=font)
        draw.text((x, y + high + 6), ellipsized(caption, font, side - tail - 8), fill=INK, font=font)
        draw.text((x + side, y + high + 6), figure, fill=SOFT, font=font, anchor="ra")
        if names:
            draw.text((x, y + high + below), ellipsized(names[index], fine, side), fill=SOFT, font=fine)
    return save_picture(sheet, out)


def _frame(picture: Image.Image, seen: tuple[float, float, float, float]) -> None:
    """Draw a light line with a dark edge around a part of a picture, unless it is the whole."""
    from PIL import ImageDraw

    left, top, right, bottom = (min(1.0, max(0.0, share)) for share in seen)
    if (left, top, right, bottom) == (0.0, 0.0, 1.0, 1.0):
        return
    last = (picture.width - 1, picture.height - 1)
    box = (round(left * last[0]), round(top * last[1]), round(right * last[0]), round(bottom * last[1]))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline=(20, 20, 20), width=2)
    draw.rectangle(box, outline=(255, 255, 255), width=1)


def with_scale(picture: Image.Image, text: str, ramp: Image.Image, ends: tuple[str, str]) -> Image.Image:
    """A picture with a strip below: what is shown, and the colour scale with a word at either end.

    Args:
        picture: RGB.
        text: goes left; it is shortened where the picture is narrow.
        ramp: an RGB picture of the scale, low values left; it is stretched.
        ends: words for the low and the high end.
    """
    from PIL import Image, ImageDraw

    size = max(11, min(picture.width // 32, picture.height // 16))
    font = font_for([text, *ends], size)
    strip = Image.new("RGB", (picture.width, picture.height + 2 * size), "white")
    strip.paste(picture, (0, 0))
    draw = ImageDraw.Draw(strip)
    middle, gap, bar = picture.height + size, size // 2, 5 * size
    right = picture.width - gap
    draw.text((right, middle), ends[1], fill=SOFT, font=font, anchor="rm")
    right -= round(draw.textlength(ends[1], font=font)) + gap + bar
    strip.paste(ramp.resize((bar, size)), (right, middle - size // 2))
    right -= gap
    draw.text((right, middle), ends[0], fill=SOFT, font=font, anchor="rm")
    right -= round(draw.textlength(ends[0], font=font)) + 2 * gap
    draw.text((gap, middle), ellipsized(text, font, right - gap), fill=INK, font=font, anchor="lm")
    return strip


def small_picture(data: ImageTextDataset, row: int, side: int) -> Image.Image | None:
    """The picture of a row of a data set, its longer side at most `side`; None where it can no longer be read."""
    from binderclip.data.images import contained

    try:
        picture = data[row].image.convert("RGB")
    except DataError:
        return None
    return contained(picture, side)


def figure_picture(figure: Any, *, dpi: float | None = None) -> Image.Image:
    """A matplotlib figure as a picture.

    Args:
        figure: drawn.
        dpi: pixels an inch; None takes the figure's own.
    """
    import io

    from PIL import Image

    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=dpi or "figure")
    held.seek(0)
    return Image.open(held, formats=["PNG"]).convert("RGB")


def save_picture(picture: Image.Image, out: str | Path, **options: Any) -> Path:
    """Write a picture that says who made it; a disk that is full or a place that cannot be written is a short error.

    Args:
        picture: any that Pillow writes.
        out: its path.
        options: of `Image.save`.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    from PIL import Image

    out = Path(out)
    kind = Image.registered_extensions()[out.suffix.lower()]
    options_of_file = picture_options(out, options)
    # Not flushed one by one: there may be thousands, and what a power cut takes is made again.
    return write_whole(out, lambda draft: picture.save(draft, kind, **options_of_file), sync=False)
