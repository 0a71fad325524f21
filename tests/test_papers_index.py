"""The index of papers: complete, searchable, and strict about ambiguous names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from binderclip.errors import UsageError
from binderclip.papers import paper, papers

ROOMS = {
    "optim", "data", "models", "losses", "fit", "privacy", "landscape", "compress", "curate", "adapt", "segment",
    "explain", "robust", "evaluate", "quality", "generate", "vision", "train", "studies",
}  # fmt: skip


def test_all_papers_are_listed_once_with_a_citation_and_a_place() -> None:
    index = papers()
    assert [entry.id for entry in index] == [f"p{number:03d}" for number in range(1, 183)]
    assert len({entry.title for entry in index}) == 182
    for entry in index:
        assert 2000 <= entry.year <= 2030, entry.id
        assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}|", entry.arxiv), entry.id
        assert entry.arxiv or entry.venue, entry.id
        assert entry.first_author, entry.id
        assert entry.packages, entry.id
        assert set(entry.packages) <= ROOMS, entry.id
        assert entry.names, entry.id
        assert entry.status in ("planned", "done"), entry.id


def test_a_paper_is_found_by_id_name_arxiv_and_words() -> None:
    assert paper("p002").title.startswith("ZClip: ")
    assert paper("zclip") is paper("p002") is paper("optim.ZClip") is paper("2504.02507")
    assert paper("CMMD").id == "p092"
    assert paper("hard-to-beat training-free").id == "p162"
    assert "p005" in [entry.id for entry in papers("adaptive clipping")]
    assert {entry.id for entry in papers(package="quality")} >= {"p012", "p092"}
    assert paper("p092").citation == "Jayasumana et al. 2024, CVPR 2024"
    assert paper("p092").url == "https://arxiv.org/abs/2401.09603"


def test_an_unknown_or_ambiguous_query_says_what_there_is() -> None:
    with pytest.raises(UsageError, match="no paper matches 'xyzzy'"):
        paper("xyzzy")
    with pytest.raises(UsageError, match=r"'clip' matches \d+ papers: p"):
        paper("clip")


def test_the_index_needs_no_heavy_import() -> None:
    code = "import sys, binderclip.papers as p; p.papers(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
