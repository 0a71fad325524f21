"""Galleries and tables as HTML, and the copies of pictures that the browser may read."""

from __future__ import annotations

import html.parser
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.data.cache.features import content_hash
from binderclip.workbench import look
from binderclip.workbench.grid import FEW, GalleryPicture, PictureCopies, PictureRow

HOSTILE = '"><script>x</script><img src=x onerror=y>.png'


class Elements(html.parser.HTMLParser):
    """All elements of some HTML, as (tag, attributes), as a browser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.all.append((tag, dict(attrs)))

    def of(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.all
            if name == tag and (not kind or kind in (attributes.get("class") or "").split())
        ]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((1000, 500)).convert("RGB").save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def entries(count: int) -> list[GalleryPicture]:
    image = Image.new("RGB", (20, 10), "red")
    return [GalleryPicture(image, f"p{n}", "", score=n / 4, label=f"l{n % 2}") for n in range(count)]


def test_few_pictures_have_no_tools_and_more_have(tmp_path: Path) -> None:
    few, more = (Elements(look.gallery(entries(FEW + n), "some", tmp_path / f"{n}")) for n in (0, 1))
    assert len(few.of("button", "enlarge")) == FEW
    assert few.of("input") == few.of("select") == []
    assert len(more.of("label", "pick")) == FEW + 1
    options = [each["value"] for each in more.of("option")]
    assert options == ["", "l0", "l1", "given", "name", "label", "falling", "rising"]
    assert [each["placeholder"] for each in more.of("input") if each["type"] == "number"] == ["0", "1.5"]


def test_what_all_share_or_nobody_has_is_nothing_to_sort_by(tmp_path: Path) -> None:
    same = [each._replace(score=float("nan") if n else 1.0, label="one") for n, each in enumerate(entries(9))]
    page = Elements(look.gallery(same, "some", tmp_path / "small"))
    assert [each["value"] for each in page.of("option")] == ["given", "name"]
    assert [each.get("data-score") for each in page.of("figure")] == ["1", *[None] * 8]


def test_a_name_that_is_html_is_text(tmp_path: Path) -> None:
    hostile = [each._replace(caption=HOSTILE, name=HOSTILE, label=f"{HOSTILE}{n}") for n, each in enumerate(entries(9))]
    page = Elements(look.gallery(hostile, HOSTILE, tmp_path / "small", score=HOSTILE))
    assert page.of("script") == []
    assert {each.get("onerror") for each in page.of("img")} == {None}
    assert {each["data-name"] for each in page.of("figure")} == {HOSTILE}


def test_every_gallery_is_another_element(tmp_path: Path) -> None:
    tags = {
        next(
            tag for tag, given in Elements(look.gallery(entries(1), "one", tmp_path)).all if "data-score-name" in given
        )
        for _ in range(3)
    }
    assert len(tags) == 3


def test_what_cannot_be_read_is_not_shown_and_the_rest_is(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:300])
    given = [(tmp_path / "broken.png", "a", ""), (tmp_path / "none.png", "b", ""), (picture, "c", "")]
    assert [each["data-name"] for each in Elements(look.gallery(given, "some", tmp_path / "small")).of("figure")] == [
        "c"
    ]
    assert look.gallery(given[:2], "some", tmp_path / "other") == ""


def test_a_picture_is_enlarged_to_itself_where_it_can_be(tmp_path: Path, picture: Path) -> None:
    copies = look.copies_of(picture, tmp_path / "small", 3, large=False)
    assert copies is not None
    assert copies.size == (1000, 500)
    assert Image.open(copies.small).size == (480, 240)
    assert copies.large is not None
    assert copies.large.samefile(picture)
    # Again, as a run does that shows what it has so far: the picture itself stays as it was.
    before = picture.read_bytes()
    assert look.copies_of(picture, tmp_path / "small", 3, large=False) == copies
    assert picture.read_bytes() == before
    assert 'data-size="1000 x 500"' in copies.image("x")


def no_link(*_: Any) -> None:
    raise OSError("another file system")


def test_where_no_link_can_be_made_it_is_copied_or_reduced(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_link)
    copied = look.copies_of(picture, tmp_path / "copied", 0, large=True)
    assert copied is not None
    assert copied.large is not None
    assert copied.large.read_bytes() == picture.read_bytes()
    assert not copied.large.samefile(picture)
    assert look.copies_of(picture, tmp_path / "many", 0, large=False) == PictureCopies(
        tmp_path / "many" / "00000.jpg", None, (1000, 500), content_hash(picture)
    )
    monkeypatch.setattr(look, "MOST_COPIED", 10)
    reduced = look.copies_of(picture, tmp_path / "reduced", 0, large=True)
    assert reduced is not None
    assert reduced.large is not None
    assert Image.open(reduced.large).format == "JPEG"


def test_what_browsers_do_not_show_is_enlarged_to_a_copy(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500), "blue").save(tmp_path / "large.tiff")
    copies = look.copies_of(tmp_path / "large.tiff", tmp_path / "small", 0, large=True)
    assert copies is not None
    assert copies.large is not None
    assert (Image.open(copies.large).size, copies.size) == ((1600, 800), (3000, 1500))
    array = look.copies_of(Image.new("RGB", (900, 300)), tmp_path / "small", 1, large=True)
    assert array is not None
    assert array.large is not None
    assert (Image.open(array.large).size, array.size) == ((900, 300), (900, 300))


@pytest.mark.parametrize(("tag", "size"), [(1, (30, 20)), (6, (20, 30)), (8, (20, 30)), (3, (30, 20))])
def test_the_size_is_that_of_the_upright_picture(tmp_path: Path, tag: int, size: tuple[int, int]) -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = tag
    image.save(tmp_path / "turned.jpg", exif=exif)
    copies = look.copies_of(tmp_path / "turned.jpg", tmp_path / "small", 0, large=False)
    assert copies is not None
    assert copies.size == size == Image.open(copies.small).size


def test_parts_of_a_row_are_enlarged_one_by_one_and_selected_together(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10), "red")
    rows = [PictureRow(f"r{n}", "", [(image, "before"), (image, "after")]) for n in range(FEW + 1)]
    page = Elements(look.picture_rows(rows, "rows", tmp_path / "small"))
    assert len(page.of("button", "enlarge")) == 2 * len(rows)
    assert len(page.of("label", "pick")) == len(rows)


def test_a_hint_does_not_ask_for_what_is_chosen() -> None:
    from binderclip.workbench.look import hint

    assert '<p class="chosen">Type labels, press Classify: here.</p>' in hint(
        "Drop pictures, type labels, press Classify: here."
    )
    assert '<p class="chosen">Press Judge: here.</p>' in hint("Drop pictures and press Judge: here.")
    # What other pictures it needs is still said.
    assert "chosen" not in hint("Drop pictures of slices, press Reconstruct: a mesh.")
    assert "chosen" not in hint("Choose a folder with a folder for each class, press Adapt: a table.")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("13 pictures reduced to 768 px: --max-side keeps more", "13 pictures reduced to 768 px: Max side keeps more"),
        ("the same command gives the same picture, another --seed another one",
         "the same command gives the same picture, another Seed another one"),
        ("no captions; `binderclip embed --no-captions` takes pictures alone", "no captions"),
        ("a re--make of it -- so to say", "a re--make of it -- so to say"),
    ],
)  # fmt: skip
def test_options_are_called_as_the_page_calls_them(text: str, shown: str) -> None:
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    assert look.in_page_words(text) == shown


def test_an_option_of_a_known_task_has_its_own_label_and_a_name_its_own_letters() -> None:
    pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")
    from binderclip.tasks.verbs.translate.request import TranslateRequest
    from binderclip.tasks.verbs.vectorize.request import VectorizeRequest

    line = "2 pictures reduced to 240 px: --side keeps more"
    assert (
        look.sentences([line], VectorizeRequest)
        == "<p>2 pictures reduced to 240 px: Longest side drawn keeps more.</p>"
    )
    assert look.in_page_words(line, TranslateRequest).endswith("Side keeps more")
    assert look.sentences(["open_clip cannot open it. binderclip.load does."]) == "<p>open_clip cannot open it.</p>"
    assert look.sentences(["v1.2 is old", "no more"]) == "<p>v1.2 is old.</p><p>No more.</p>"


def test_a_table_has_names_and_not_the_places_of_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shown = look.table(("image",), [(str(tmp_path / "s" / "cat.jpg"),), ("holiday/cat.jpg",)], "pictures")
    assert str(tmp_path) not in shown
    assert "<td>cat.jpg</td>" in shown
    assert "<td>holiday/cat.jpg</td>" in shown


def test_a_long_name_in_a_table_may_be_broken_and_a_short_one_or_a_number_may_not() -> None:
    shown = look.table(("layer", "count"), [("backbone.visual.trunk.cls_token", "9,634,289"), ("a.b", "1.5")], "layers")
    assert "<td>backbone.<wbr>visual.<wbr>trunk.<wbr>cls_<wbr>token</td><td>9,634,289</td>" in shown
    assert "<td>a.b</td><td>1.5</td>" in shown


def test_a_hint_is_known_as_one() -> None:
    assert look.is_hint(look.hint("Drop pictures and press Judge."))
    assert not look.is_hint("<p>result</p>")
    assert not look.is_hint(None)
