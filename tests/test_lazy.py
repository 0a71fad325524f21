"""`lazy_exports`, on packages written here: what is imported when."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import binderclip

SOURCE = Path(binderclip.__file__).parent
INIT = '''"""A package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from house import garden as garden
    from house.kitchen import cook as make_soup
    from house.kitchen import knife as knife
    from house.shed import sharpen as sharpen

lazy_exports(__name__)
'''
ALL = ["garden", "knife", "make_soup", "sharpen"]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Writes and imports a package of four modules."""
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "kitchen.py").write_text("def cook(): return 'soup'\n\ndef knife(): return 'cut'\n")
    (folder / "shed.py").write_text("def sharpen(): return 'sharp'\n")
    (folder / "garden.py").write_text("trees = 3\n")
    (folder / "cellar.py").write_text("wine = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str = INIT) -> ModuleType:
        (folder / "__init__.py").write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module("house")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


def loaded() -> set[str]:
    return {name for name in sys.modules if name.startswith("house.")}


def test_a_name_is_imported_when_it_is_used(house: Callable[..., ModuleType]) -> None:
    package = house()
    assert loaded() == set()
    assert package.make_soup() == "soup"
    assert loaded() == {"house.kitchen"}
    assert "make_soup" in vars(package), "the second use costs a dictionary's look-up"
    from house import garden, sharpen  # type: ignore[import-not-found]

    assert (garden.trees, sharpen()) == (3, "sharp")


def test_modules_are_attributes_too(house: Callable[..., ModuleType]) -> None:
    assert house().cellar.wine == 1


def test_dir_lists_the_public_names_and_imports_nothing(house: Callable[..., ModuleType]) -> None:
    assert set(ALL) <= set(dir(house()))
    assert loaded() == set()


def test_a_star_import_gives_every_public_name(house: Callable[..., ModuleType]) -> None:
    house()
    found: dict[str, object] = {}
    exec("from house import *", found)
    assert set(ALL) <= set(found)


def test_what_is_not_there_is_an_attribute_error(house: Callable[..., ModuleType]) -> None:
    with pytest.raises(AttributeError, match="module 'house' has no attribute 'attic'"):
        house().attic  # noqa: B018


def test_a_single_file_may_be_lazy_and_has_no_modules_in_it(house: Callable[..., ModuleType]) -> None:
    package = house()
    Path(str(package.__file__)).with_name("hall.py").write_text(INIT)
    hall = importlib.import_module("house.hall")
    assert hall.make_soup() == "soup"
    with pytest.raises(AttributeError, match=r"module 'house.hall' has no attribute 'attic'"):
        hall.attic  # noqa: B018
    assert not hasattr(hall, "pytest_plugins")
    with pytest.raises(ImportError, match="attic"):
        from house import attic  # type: ignore[import-not-found]  # noqa: F401


def test_what_is_imported_is_what_is_public(house: Callable[..., ModuleType]) -> None:
    assert house().__all__ == ALL
    assert loaded() == set()


def test_a_package_that_exports_nothing_is_an_error_at_once(house: Callable[..., ModuleType]) -> None:
    with pytest.raises(ImportError, match="house imports nothing under TYPE_CHECKING"):
        house("from binderclip.lazy import lazy_exports\nlazy_exports(__name__)\n")


ROOMS = [path for path in SOURCE.rglob("__init__.py") if "lazy_exports(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("init", ROOMS, ids=[path.parent.relative_to(SOURCE).as_posix() for path in ROOMS])
def test_every_export_says_so_to_type_checkers(init: Path) -> None:
    """`import a` in a package is private to type checkers where no `__all__` can be read, `import a as a` is not."""
    (block,) = (node for node in ast.parse(init.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    names = [alias for line in block.body if isinstance(line, ast.ImportFrom) for alias in line.names]
    assert names
    assert [alias.name for alias in names if alias.asname is None] == []


def test_the_site_reads_the_names_that_the_package_has() -> None:
    griffe = pytest.importorskip("griffe")
    extensions = griffe.load_extensions(str(SOURCE.parents[1] / "docs" / "generate" / "exports.py"))
    read = griffe.load("binderclip", search_paths=[SOURCE.parent], extensions=extensions, submodules=True)
    for init in ROOMS:
        room = init.parent.relative_to(SOURCE).as_posix().replace("/", ".")
        assert sorted(read[room].exports) == importlib.import_module(f"binderclip.{room}").__all__, room


def test_a_name_can_be_replaced_and_put_back(house: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    package = house()
    with monkeypatch.context() as patch:
        patch.setattr(package, "knife", lambda: "blunt")
        assert package.knife() == "blunt"
    assert package.knife() == "cut"
