"""What runs the blocks of a page: an empty folder with the example pictures in it, the commands in this process."""

from __future__ import annotations

import functools
import importlib.util
import sys
import warnings
from pathlib import Path

import pytest
import typer.main

from binderclip.data import write_examples


def beside(name):
    """A module of this folder that is no test."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


code, surroundings = beside("site_code"), beside("site_surroundings")


@pytest.fixture(scope="session")
def site_code():
    """The module that reads and runs blocks."""
    return code


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """The folder of example pictures."""
    return write_examples(tmp_path_factory.mktemp("site") / "examples")


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """The cache of features, shared by the pages of a worker."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run_block(monkeypatch, capsys):
    """`run_block(block, given)` runs one block, or checks what can be checked of it."""
    # Typer builds its commands anew at every call, which takes longer than some of the calls.
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))

    def call(block, given):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code.run_block(block, given, monkeypatch, capsys)

    return call


@pytest.fixture
def run_page(run_block, examples, features, tmp_path, monkeypatch):
    """`run_page(page)` runs the blocks of a page in order, each in the names that those before it left."""

    def call(page):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BINDERCLIP_CACHE", str(features))
        (tmp_path / "examples").symlink_to(examples)
        given = {"__name__": "page", **surroundings.GIVEN.get(page.name, dict)()}
        for block in code.blocks_of(page):
            run_block(block, given)

    return call
