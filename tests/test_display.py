"""What results show in a notebook is what they hold: the HTML is read back, its pictures are decoded and compared."""

from __future__ import annotations

import ast
import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip import display
from binderclip.adapt.selection import Examined, Interval, LabelScore, LabelSelection, MethodScore, Selection
from binderclip.display import MOST, new_figure, number_of, sheet_html, show_pictures, table_html
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import Evaluation
from binderclip.explain import Attribution, compare
from binderclip.explain.engine.placement import Box
from binderclip.models import Classification
from binderclip.optim import ClipLog, NormClip
from binderclip.search import Hit, Hits
from binderclip.segment import Segmentation
from binderclip.segment.anomaly import Anomalies


class Page(HTMLParser):
    """The cells, texts and decoded pictures of a fragment; a tag that is never closed fails."""

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.texts, self.pictures, self.alts = [], [], [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            head, _, code = found["src"].partition(",")
            assert head == "data:image/png;base64"
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(code))))
            self.alts.append(found["alt"])
            return
        assert tag in ("table", "caption", "thead", "tbody", "tr", "th", "td", "div", "figure", "figcaption", "p", "b")
        if tag == "tr":
            self.rows.append([])
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def png_of(figure):
    return Image.open(io.BytesIO(figure._repr_png_()))


def test_a_table_is_read_back_with_its_text_escaped():
    page = Page(table_html(("name", "x"), [("<b>&", 0.25), ("y", 3)], caption="<i>"))
    assert page.rows == [["name", "x"], ["<b>&", "0.250"], ["y", "3"]]
    assert "<i>" in page.texts
    many = Page(table_html(("n",), [(n,) for n in range(MOST + 5)]))
    assert len(many.rows) == MOST + 1
    assert "and 5 more" in many.texts


def test_a_sheet_shows_the_pictures_it_was_given_and_counts_the_rest():
    red = Image.new("RGB", (320, 80), (200, 10, 10))
    page = Page(sheet_html([(red, "one"), (None, 'a "quoted" <name>')] + [(None, "x")] * MOST))
    assert page.pictures[0].size == (160, 40)
    assert np.allclose(np.asarray(page.pictures[0]), (200, 10, 10), atol=1)
    assert 'a "quoted" <name>' in page.texts
    assert "and 2 more" in page.texts


def test_classification_shows_pictures_of_files_and_names_of_the_others(tmp_path):
    path = tmp_path / "<script>.png"
    Image.new("RGB", (50, 50), "green").save(path)
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    found = Classification(["cat", "dog", "<b>"], logits.softmax(1), logits, [str(path), "1"])
    page = Page(found._repr_html_())
    assert len(page.pictures) == 1
    assert [text.split(",")[0] for text in page.texts] == ["cat 0.67", "1: dog 0.84"]
    figure = found.plot(k=2)
    bars = [axes for axes in figure.axes if axes.patches]
    assert [[round(bar.get_width(), 3) for bar in axes.patches] for axes in bars] == [[0.665, 0.245], [0.844, 0.114]]
    assert png_of(figure).width > 100
    with pytest.raises(UsageError, match="no picture"):
        Classification(["cat"], torch.zeros(0, 1), torch.zeros(0, 1)).plot()


def segmentation():
    labels = torch.zeros(20, 40, dtype=torch.int32)
    labels[:, 30:] = 1
    scores = torch.zeros(3, 5, 10)
    return Segmentation(("sky", "tree", "car"), labels, scores, Image.new("RGB", (40, 20), "gray"))


def test_segmentation_shows_its_overlay_and_the_shares_it_counts():
    page = Page(segmentation()._repr_html_())
    assert np.array_equal(np.asarray(page.pictures[0]), np.asarray(segmentation().overlay()))
    assert page.rows[1:] == [["sky", "0.750"], ["tree", "0.250"]]
    figure = segmentation().plot()
    assert [bar.get_width() for bar in figure.axes[2].patches] == pytest.approx([0.75, 0.25, 0.0])
    assert np.array_equal(figure.axes[1].images[0].get_array(), np.asarray(segmentation().overlay(legend=False)))


def attribution():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[1, 3, 3] = 1.0, 1.0
    return Attribution((maps,), (Box(0, 0, 32, 32),), (32, 32), torch.tensor([0.5, 0.25]), "saliency", finish="relu")


def test_attribution_is_brightest_where_its_map_is():
    page = Page(attribution()._repr_html_())
    assert page.texts == ["saliency 0.500", "saliency 0.250"]
    colour = [np.ptp(np.asarray(picture).astype(int), axis=2) for picture in page.pictures]
    assert [np.unravel_index(each.argmax(), each.shape) for each in colour] != [(0, 0), (0, 0)]
    assert colour[0][:16, :16].mean() > 5 * colour[0][16:, 16:].mean()
    assert colour[1][16:, 16:].mean() > 5 * colour[1][:16, :16].mean()
    picture = Image.new("RGB", (64, 64), "white")
    figure = attribution().plot([picture, picture])
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.asarray(attribution().overlay(picture, 0)))
    with pytest.raises(UsageError, match="1 images for 2 maps"):
        attribution().plot([picture])


def test_a_comparison_shows_its_table():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    found = compare(net, torch.rand(2, 3, 16, 16), 1, methods=["saliency", "input_x_gradient"], steps=2)
    page = Page(found._repr_html_())
    assert [row[0] for row in page.rows[1:]] == [row["method"] for row in found.table()]
    deletion = page.rows[0].index("deletion")
    assert [row[deletion] for row in page.rows[1:]] == [f"{row['deletion']:.3f}" for row in found.table()]
    axes = found.plot("deletion").axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([row["deletion"] for row in found.table()])
    with pytest.raises(UsageError, match="was not tested"):
        found.plot("beauty")


def test_anomalies_show_the_most_anomalous_first():
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = Anomalies(torch.tensor([0.1, 0.9, 0.5]), maps)
    assert Page(found._repr_html_()).texts == ["#1: 0.900", "#2: 0.500", "#0: 0.100"]
    pictures = [Image.new("RGB", (32, 32), "gray")] * 3
    shown = found.plot(pictures).axes[0].images[0].get_array()
    assert np.array_equal(shown, np.asarray(found.overlay(pictures[1], 1)))


def test_hits_are_a_list_that_shows_itself(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 30), (0, 0, 255)).save(path)
    hits = Hits([Hit(path, 0.5), Hit(tmp_path / "gone.png", 0.25)], "blue & <round>")
    assert isinstance(hits, list)
    assert hits[0].path == path
    page = Page(hits._repr_html_())
    assert page.texts == ["blue & <round>", "a.png 0.50", "gone.png 0.25"]
    assert np.allclose(np.asarray(page.pictures[0]), (0, 0, 255), atol=1)
    assert len([axes for axes in hits.plot().axes if axes.images]) == 1
    assert Page(Hits()._repr_html_()).pictures == []


def chosen(kind, **other):
    """A selection without the pictures that it was made from, of which nothing is shown."""
    fields = {field.name: None for field in dataclasses.fields(kind)}
    return kind(**{**fields, "optimism": 0.0125, **other})


def test_a_selection_shows_its_table_and_the_one_look_at_the_test_part():
    scores = [
        MethodScore(name, "cheap", Interval(value, value - 0.1, value + 0.05), [], 0.5, 0.25, 1.0, 3, [], 0.0)
        for name, value in (("gda", 0.75), ("<zero>", 0.5))
    ]
    test = Examined("gda", Interval(0.8, 0.7, 0.9), 0.8, 0.1, [], np.zeros((2, 2)), np.zeros((1, 2)))
    found = chosen(Selection, scores=scores, test=test, curve={"gda": [(1, 0.5), (2, 0.625)]})
    page = Page(found._repr_html_())
    assert page.rows[1:] == [
        ["gda", "0.750", "0.650 to 0.800", "0.500", "0.250"],
        ["<zero>", "0.500", "0.400 to 0.550", "0.500", "0.250"],
    ]
    said = "Chosen: gda; choosing flatters it by about 0.013. On the test pictures: 0.800 (0.700 to 0.900)."
    assert said.replace("0.013", f"{0.0125:.3f}") in page.texts
    left, right = found.plot().axes
    assert [bar.get_width() for bar in left.patches] == [0.75, 0.5]
    assert list(right.lines[0].get_ydata()) == [0.5, 0.625]
    one_draw = [dataclasses.replace(scores[0], accuracy=Interval(0.75, float("nan"), float("nan")))]
    without = chosen(Selection, scores=one_draw, curve={})
    assert "On the test pictures" not in without._repr_html_()
    assert "nan" not in without._repr_html_()
    assert png_of(without.plot()).width > 100
    lines = [list(line.get_segments()[0][:, 0]) for line in left.collections[:1]]
    assert lines == [pytest.approx([0.65, 0.8])]


def test_a_selection_of_labels_shows_every_label():
    scores = [LabelScore("probe", Interval(0.5, 0.4, 0.6), [], 0.25, 1.0, [])]
    labels = [("cat", 4, 0.75, 0.5), ("<dog>", 2, 0.25, 0.125)]
    found = chosen(LabelSelection, scores=scores, test=(0.5, 0.3, 6), by_label=labels)
    page = Page(found._repr_html_())
    assert page.rows[1] == ["probe", "0.500", "0.400 to 0.600", "0.250"]
    assert page.rows[3:] == [["cat", "4", "0.750", "0.500"], ["<dog>", "2", "0.250", "0.125"]]
    assert any("On 6 test pictures: 0.500." in text for text in page.texts)
    assert [bar.get_width() for bar in found.plot().axes[1].patches] == [0.75, 0.25]


def test_an_evaluation_shows_its_figures_and_counts_what_was_skipped():
    found = Evaluation(7, {"text_to_image/R@1": 0.5, "zero_shot/top1": 0.25}, [("a.png", "damaged")])
    page = Page(found._repr_html_())
    assert page.rows[1:] == [["text to image/R@1", "0.500"], ["zero shot/top1", "0.250"]]
    assert "7 pictures, 1 skipped" in page.texts
    assert [bar.get_width() for bar in found.plot().axes[0].patches] == [0.5, 0.25]


def run_of(sizes):
    weight = torch.nn.Parameter(torch.zeros(2))
    log = ClipLog(NormClip(1.0))
    for size in sizes:
        weight.grad = torch.tensor([0.0, size])
        report = log([("<weight>", weight)])
    return log, report


def test_a_report_and_a_log_show_what_was_clipped():
    log, report = run_of([0.5] * 10 + [50.0])
    page = Page(report._repr_html_())
    assert page.rows == [
        ["norm", "smallest limit", "smallest factor", "blocks clipped"],
        ["50", "1", "0.02", "1 of 1"],
        ["largest tensors", "norm"],
        ["<weight>", "50"],
    ]
    assert [bar.get_width() for bar in report.plot().axes[0].patches] == [50.0]
    shown = Page(log._repr_html_())
    assert shown.rows[1][:2] == ["11", "50"]
    assert "11 steps, 1 spikes, 9.1% clipped" in shown.texts
    assert list(log.history.plot().axes[0].lines[0].get_ydata()) == [0.5] * 10 + [50.0]
    empty = ClipLog(NormClip(1.0))
    assert "0 steps" in empty._repr_html_()
    with pytest.raises(DataError):
        empty.history.plot()


def test_a_figure_is_its_own_png_and_leaves_pyplot_alone():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = show_pictures([(np.zeros((4, 4, 3)), f"{n}") for n in range(5)], columns=2)
    assert [axes.get_title() for axes in figure.axes if axes.images] == list("01234")
    assert png_of(new_figure(2, 1)).size == (200, 100)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "picture", "0 pictures"), (1, "picture", "1 picture"), (2, "picture", "2 pictures"),
        (1, "class", "1 class"), (2, "class", "2 classes"), (2, "box", "2 boxes"), (2, "patch", "2 patches"),
        (1, "query", "1 query"), (2, "query", "2 queries"), (2, "key", "2 keys"), (12000, "pair", "12,000 pairs"),
        (2, "epoch", "2 epochs"),
    ],
)  # fmt: skip
def test_one_is_no_plural(count: int, noun: str, expected: str):
    assert number_of(count, noun) == expected


COUNTED = re.compile(
    r" (attributes|blocks|boxes|captions|classes|clusters|columns|concepts|cores|files|groups|heads|images|keys|labels"
    r"|layers|machines|masks|numbers|pairs|pictures|points|queries|regions|rows|samples|texts|tokens|values|words)\b"
)
SOURCE = Path(display.__file__).parent


def _counted_plainly(source: str) -> list[str]:
    """Places where an f-string puts a whole number right before a plural, or a length before a word that is filled in;
    constants are no ones."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in pairwise(node.values):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            word = COUNTED.match(str(after.value))
            constant = isinstance(value.value, ast.Name) and value.value.id.isupper()
            whole = value.format_spec is None or ast.unparse(value.format_spec) == "f','"
            if word is not None and whole and not constant:
                found.append(f"{ast.unparse(value.value)} {word[1]}")
        for value, between, noun in zip(node.values, node.values[1:], node.values[2:], strict=False):
            if isinstance(value, ast.FormattedValue) and isinstance(noun, ast.FormattedValue):
                count, space = ast.unparse(value.value), isinstance(between, ast.Constant) and between.value == " "
                if space and count.startswith("len("):
                    found.append(f"{count} {ast.unparse(noun.value)}")
    return found


@pytest.mark.parametrize("room", ["cli", "curate", "quality", "robust"])
def test_counts_in_messages_stand_before_a_noun_of_their_number(room: str):
    assert _counted_plainly(
        'f"{n} pictures and {m:,} files of {MOST} pairs, {s:.1f} values a row, {len(x)} {kinds}"'
    ) == [
        "n pictures",
        "m files",
        "len(x) kinds",
    ]
    allowed = ("max(2 * n, 2) texts", "'real' if real else 'generated' images")  # two at least, and no count
    for path in sorted((SOURCE / room).rglob("*.py")):
        found = _counted_plainly(path.read_text(encoding="utf-8"))
        assert [place for place in found if place not in allowed] == [], path.relative_to(SOURCE)
