"""Folders of sessions: who owns what, and what goes when a page closes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.workbench import sessions as module
from binderclip.workbench.sessions import Sessions, plain_name, remove


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "root")


def uploaded(sessions: Sessions, name: str, text: str = "x") -> Path:
    path = sessions.new_upload(name, "cat.png")
    path.write_text(text)
    return path


def test_a_session_owns_its_own_files_alone(sessions: Sessions, tmp_path: Path) -> None:
    mine, other = sessions.new(), sessions.new()
    path, foreign = uploaded(sessions, mine), uploaded(sessions, other)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    assert sessions.owns(mine, path)
    assert not sessions.owns(mine, foreign)
    assert not sessions.owns("no such", path)
    assert not sessions.owns(mine, secret)
    assert not sessions.owns(mine, path.parent)
    assert not sessions.owns(mine, path.parent / ".." / ".." / ".." / foreign.relative_to(sessions.root))
    assert not sessions.owns(mine, f"{path}\0.png")
    # A way round that ends in one's own folder is one's own file.
    assert sessions.owns(mine, path.parent / ".." / path.parent.name / path.name)


def test_links_are_followed_before_they_are_trusted(sessions: Sessions, tmp_path: Path) -> None:
    mine = sessions.new()
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    path = uploaded(sessions, mine)
    (path.parent / "link.png").symlink_to(secret)
    (path.parent / "folder").symlink_to(tmp_path)
    assert not sessions.owns(mine, path.parent / "link.png")
    assert not sessions.owns(mine, path.parent / "folder" / "secret.txt")


def test_folders_are_their_owners_alone(sessions: Sessions) -> None:
    mine = sessions.new()
    assert sessions.root.stat().st_mode & 0o077 == 0
    assert sessions.folder(mine).stat().st_mode & 0o077 == 0
    # The folder's name does not give the session's name away.
    assert mine not in str(sessions.folder(mine))


def test_results_go_with_their_page_and_uploads_with_the_last_one(sessions: Sessions) -> None:
    mine = sessions.new()
    sessions.opened(mine, "p")
    sessions.opened(mine, "q")
    path = uploaded(sessions, mine)
    for page in "pq":
        (sessions.new_results(mine, page, "run") / "map.png").write_text("x")
    folder = sessions.folder(mine)
    remove(sessions.closed(mine, "p"))
    assert path.exists()
    assert [found.name for found in (folder / "results").iterdir()] == ["q"]
    gone = sessions.closed(mine, "q")
    assert not folder.exists()
    # A page that is opened again finds a place, and loses nothing to what is still being deleted.
    sessions.opened(mine, "q")
    again = uploaded(sessions, mine)
    remove(gone)
    assert again.exists()
    assert not gone.exists()
    assert sessions.closed("no such", "q") is None


def test_a_closed_page_gets_no_new_results_until_it_is_opened_again(sessions: Sessions) -> None:
    mine = sessions.new()
    for page in "pq":
        sessions.opened(mine, page)
    remove(sessions.closed(mine, "p"))
    with pytest.raises(UsageError, match="load it again"):
        sessions.new_results(mine, "p", "click")
    assert not list(sessions.folder(mine).glob("results/p*"))
    assert sessions.new_results(mine, "q", "click").is_dir()
    sessions.opened(mine, "p")
    assert sessions.new_results(mine, "p", "click").is_dir()


def test_a_session_that_never_opened_a_page_is_swept_away(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    old, open_one = sessions.new(), sessions.new()
    sessions.opened(open_one, "p")
    folder = sessions.folder(old)
    monkeypatch.setattr(module, "IDLE", -1.0)
    sessions.new()
    assert not folder.exists()
    assert old not in sessions
    assert open_one in sessions
    with pytest.raises(UsageError, match="load it again"):
        sessions.folder(old)


def test_what_one_session_stores_is_limited(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STORED", 100)
    mine, other = sessions.new(), sessions.new()
    sessions.store(mine, 90)
    with pytest.raises(UsageError, match="load the page again"):
        sessions.store(mine, 20)
    sessions.store(other, 90)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat.png"),
        ("..", "picture"),
        ("", "picture"),
        ("-rf.png", "rf.png"),
        (".hidden.png", "hidden.png"),
        ("a\nb\x1b[31m.png", "a_b_[31m.png"),
        ("Katze im Schnee.jpg", "Katze im Schnee.jpg"),
        ("日本.png", "日本.png"),
    ],
)
def test_names_of_files_lead_nowhere(given: str, kept: str) -> None:
    assert plain_name(given) == kept


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(" ./\\-\t\0:\u202e\xa0"), max_size=300))
@example(" ..")
@example(". ./")
@example("- .")
@example("\t.. ")
@example(". " * 200 + ".x")
@example("x" * 159 + " ..  ")
def test_no_name_is_a_folder_hidden_or_an_option(given: str) -> None:
    kept = plain_name(given)
    assert kept not in ("", ".", "..")
    assert kept[0] not in ".- "
    assert kept == kept.strip()
    assert not set(kept) & set('/\\<>:"|?*\0\n')
    assert kept.isprintable()
    assert len(os.fsencode(kept)) <= module.MOST_STEM + 1 + module.MOST_SUFFIX
    assert plain_name(kept) == kept


@pytest.mark.parametrize("letter", ["x", "ü", "日", "🖼"])
def test_long_names_fit_a_file_system_and_keep_their_suffix(letter: str, tmp_path: Path) -> None:
    for name in (f"{letter * 5000}.jpeg", letter * 5000, f"a.{letter * 5000}", f".{letter * 100}.{letter * 100}"):
        kept = plain_name(name)
        # With what is made of it: `-overlay.png`, a number in front.
        assert len(os.fsencode(kept)) < 200
        (tmp_path / kept).write_text("x")
    assert plain_name(f"{letter * 5000}.jpeg").endswith(".jpeg")


def test_what_was_not_kept_counts_no_longer(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STORED", 100)
    mine = sessions.new()
    sessions.store(mine, 90)
    sessions.forget(mine, 90)
    sessions.store(mine, 100)
    with pytest.raises(UsageError, match="load it again"):
        sessions.store("gone", 1)
    sessions.forget("gone", 1)
