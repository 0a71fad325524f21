"""The package's front: every room is an attribute, and nothing heavy is imported for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import binderclip

# Read from the disk, not from the package's own list.
ROOMS = sorted(path.parent.name for path in Path(binderclip.__file__).parent.glob("*/__init__.py"))


def test_the_rooms_are_those_of_the_design() -> None:
    assert {"adapt", "cli", "data", "explain", "landscape", "privacy", "robust", "segment", "vision"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_an_attribute(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(binderclip, room, raising=False)
    assert getattr(binderclip, room).__name__ == f"binderclip.{room}"
    assert room in dir(binderclip)


@pytest.mark.parametrize("name", ["load", "list_models", "TextBank", "Predictor"])
def test_the_names_of_the_first_minute_are_attributes(name: str) -> None:
    from binderclip import models

    assert getattr(binderclip, name) is getattr(models, name)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'attic'"):
        binderclip.attic  # noqa: B018


def test_importing_the_package_imports_no_room_and_no_torch() -> None:
    code = (
        "import sys, binderclip; dir(binderclip); "
        "print([m for m in sys.modules if m.startswith('binderclip.') or m in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_lies_in_the_checkout_that_does_not_belong_to_it() -> None:
    """What a test or an example has left behind must not be committed with everything else."""
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("not a checkout of git")
    names = {line.split("/")[0] for line in done.stdout.splitlines()}
    folders = {"benchmarks", "docs", "src", "tests", ".ci", ".github"}
    assert {name for name in names if (root / name).is_dir()} == folders
    files = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
             "mkdocs.yml", "pyproject.toml", ".gitignore", ".pre-commit-config.yaml"}  # fmt: skip
    assert names - folders == files


def test_the_readmes_pictures_have_the_addresses_of_the_project() -> None:
    """Absolute, so that they are seen on a package index too; one address in pyproject.toml, and files that exist."""
    root = Path(__file__).parent.parent
    text = (root / "README.md").read_text(encoding="utf-8")
    home = re.search(
        r'Repository = "https://github.com/([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert home is not None
    used = set(re.findall(r"!\[[^\]]*\]\[(\w+)\]", text))
    addresses = dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))
    assert set(addresses) == used
    assert not re.findall(r"!\[[^\]]*\]\(", text)
    for name, address in addresses.items():
        assert address == f"https://raw.githubusercontent.com/{home.group(1)}/main/docs/images/{name}.png"
        assert (root / "docs" / "images" / f"{name}.png").is_file()
    # A page, not a book: two minutes at 200 words each, and some code.
    assert len(text.split()) < 1100


def test_the_readmes_links_lead_to_files() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text(encoding="utf-8")):
        assert (root / target).is_file(), target


def test_sections_of_docstrings_are_called_as_the_site_reads_them() -> None:
    """What stands under another heading is plain text there: `[4, 4]` becomes a link that leads nowhere."""
    known = re.compile(r"^ +(Example|Argument|Arg|Return|Raise|Attribute|Parameters|Params):$", re.MULTILINE)
    source = Path(binderclip.__file__).parent
    wrong = {str(p.relative_to(source)): known.findall(p.read_text(encoding="utf-8")) for p in source.rglob("*.py")}
    assert {path: found for path, found in wrong.items() if found} == {}
