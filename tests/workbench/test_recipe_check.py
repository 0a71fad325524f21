"""What a page may write into a recipe: what the library names, what it was opened on, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binderclip.errors import UsageError

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.train import Recipe, list_recipes, load_recipe
from binderclip.workbench.recipe_check import check_recipe
from binderclip.workbench.tabs import train as tab

TOWER = "{{name = 'image-tower', {0}}}"
FIELDS = {
    "model": ("scratch-64", "model={0}"),
    "model.tokenizer": ("scratch-64", "model.tokenizer={0}"),
    "model.text_tower": ("small-b", "model.text_tower={0}"),
    "model.stem of a segmenter": ("small-sam", "model.stem={0}"),
    "model.stem of a tower": ("small-dino", "model.stem={0}"),
    "model.parts": ("small-cpu", "model.parts={{wordnet = {0}}}"),
    "model.vision": ("scratch-64", "model.vision.timm_model_name={0}"),
    "model.text": ("scratch-64", "model.text.hf_model_name={0}"),
    "model.options": ("small-dino", "model.options={{checkpoint_path = {0}}}"),
    "photographs": ("small-cpu", "stage.image.kind.photographs=[{0}]"),
    "stamps": ("small-cpu", "stage.second.kind.stamps={0}"),
    "gcompris": ("small", "stage.image.kind.gcompris={0}"),
    "stage.kind of another recipe": ("scratch-64", "stage.kind={{name = 'image-tower', stamps = {0}}}"),
    "stage.kind.parts": ("small", "stage.text.kind.parts={{minilm = {0}}}"),
    "stage.kind.parts of the head": ("small-b", "stage.kind.parts={{lite2 = {0}}}"),
    "stage.kind.names": ("small-dino", "stage.dino.kind.names={0}"),
    "teacher": ("scratch-64", "stage.terms=[{{name = 'distill', teacher = {0}}}]"),
    "teacher behind a good one": (
        "scratch-64", "terms=[{{name = 'distill', teacher = 'small'}}, {{name = 'distill', teacher = {0}}}]",
    ),
    "loss": ("scratch-64", "stage.loss.targets={0}"),
    "data": ("scratch-64", "data=[{0}]"),
    "data.options": ("scratch-64", "data=[{{name = 'icons', options = {{file = {0}}}}}]"),
    "evaluation.data": ("scratch-64", "evaluation.data=[{0}]"),
    "scaling": ("scratch-64", "scaling={{by = {0}}}"),
}  # fmt: skip
ELSEWHERE = ("{outside}", "{outside}/weights.safetensors", "{opened}/../outside", "pipe:touch made", "..", "~",
             "http://127.0.0.1:9/x", "https://example.com/x.tar", "s3://bucket/x", "hf:{outside}", "file://{outside}",
             "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/{outside}/weights.pt", "hf-hub:a/b",
             "local-dir:{outside}")  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """A folder that the workbench is opened on, beside one that it is not."""
    for name in ("opened", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"secret")
    return tmp_path / "opened"


def press(run_of: Any, opened: Path, recipe: str, settings: str) -> None:
    """Press Train with these further settings."""
    tab.work(run_of(folders=[opened]), recipe, "", 1.0, tab.AS_IN_RECIPE, settings, False, "")


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that the page would carry out; it stops there."""
    found: list[Recipe] = []

    def started(recipe: Recipe, **_: Any) -> None:
        found.append(recipe)
        raise UsageError("far enough")

    monkeypatch.setattr("binderclip.train.run", started)
    return found


@pytest.mark.parametrize("field", FIELDS)
def test_no_setting_names_anything_else_of_this_machine_or_of_another(run_of, opened, carried_out, field):
    recipe, setting = FIELDS[field]
    # What is chosen from a few words is refused for being none of them, before anybody asks where it lies.
    said = "is unknown" if field == "loss" else "was not opened on"
    for named in ELSEWHERE:
        text = named.format(opened=opened, outside=opened.parent / "outside")
        with pytest.raises(UsageError, match=said):
            press(run_of, opened, recipe, setting.format(repr(text)))
    assert carried_out == []


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "loss"])
def test_a_folder_that_it_was_opened_on_may_be_named_wherever_one_is_taken(run_of, opened, carried_out, field):
    (opened / "inside").mkdir()
    recipe, setting = FIELDS[field]
    with pytest.raises(UsageError, match="far enough"):
        press(run_of, opened, recipe, setting.format(repr(str(opened / "inside"))))
    assert str(opened / "inside") in str(carried_out[0].document())


def test_a_link_out_of_an_opened_folder_is_what_it_leads_to(run_of, opened, carried_out):
    (opened / "link").symlink_to(opened.parent / "outside")
    with pytest.raises(UsageError, match=r"stage\.1\.kind|stage\.2\.kind"):
        press(run_of, opened, "small-cpu", f"stage.image.kind.photographs=[{str(opened / 'link')!r}]")
    assert carried_out == []


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("scratch-64", "model='small'"),
        ("scratch-64", "model='small-b'\nprecision='bfloat16'\nsave_dtype='float16'\nstage.schedule='linear'"),
        ("scratch-64", "model.tokenizer='clip'"),
        ("scratch-64", "model.tokenizer='small'\nname='mine: /etc'"),
        ("scratch-64", "data=['icons', 'openclipart,noto-emoji']\nevaluation.data=[{name = 'icons', split = 'test'}]"),
        ("scratch-64", "terms=[{name = 'distill', teacher = 'small', kind = 'mse'}]"),
        ("scratch-64", "stage.loss={name = 'siglip', targets = 'same-caption'}\nevaluation.templates='a {} on wood'"),
        ("scratch-64", "clip=[{name = 'norm', granularity = 'tensor', statistic = 'max'}, 3.0, 'value']"),
        ("scratch-64", "optimizer={name = 'clipped-adam', granularity = 'global', form = 'norm'}"),
        ("scratch-64", "augment={background = ['noise'], cutout = 0.5}\ngroups=[{match = 'visual.*', lr = 0.1}]"),
        (
            "scratch-64",
            "data=['icons']\nkind={name = 'private-head', epsilon = 3.0, tau = 'auto', accountant = 'pld'}",
        ),
        ("small-dino", "model.stem='none'\nstage.dino.kind.backgrounds=['photo', 'texture']"),
        ("small-b", "model.text_tower='small'\nstage.lr=1e-3"),
        ("small-cpu", "stage.mean.kind.of=['image', 'second', 'text']\nstage.image.kind.views=2"),
        ("small-cpu", "stage.image.kind.photographs=['/usr/share/wallpapers']"),
    ],
)
def test_names_of_the_library_and_numbers_are_free(run_of, opened, carried_out, recipe, settings):
    with pytest.raises(UsageError, match="far enough"):
        press(run_of, opened, recipe, settings)
    assert len(carried_out) == 1


@pytest.mark.parametrize("name", list_recipes())
def test_a_packaged_recipe_is_its_own(name):
    def nothing_open(folder: str) -> Path:
        raise UsageError(f"was not opened on {folder}")

    check_recipe(load_recipe(name), load_recipe(name), nothing_open)


def places(value: Any, field: str = "") -> list[tuple[str, Any, Any]]:
    """(field, table or list, key) of every text of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, each in inner:
        name = f"{field}.{key}".strip(".") if isinstance(value, dict) else field
        found += [(name, value, key)] if isinstance(each, str) else places(each, name)
    return found


@pytest.mark.parametrize("name", list_recipes())
def test_no_text_of_a_packaged_recipe_can_become_a_path(name):
    """Wherever one stands, also in entries that nobody thought of here."""

    def nothing_open(folder: str) -> Path:
        raise UsageError(f"was not opened on {folder}")

    shipped, taken = load_recipe(name), set()
    for number in range(len(places(shipped.document()))):
        document = shipped.document()
        field, table, key = places(document)[number]
        table[key] = "/etc/passwd"
        try:
            check_recipe(Recipe.from_dict(document), shipped, nothing_open)
        except UsageError:
            continue
        taken.add(field)
    # A title, a word that pictures have or have not, a pattern of names of parameters: none is opened.
    assert taken <= {"name", "stage.data.split", "evaluation.data.split", "stage.groups.match"}
    assert "name" in taken
