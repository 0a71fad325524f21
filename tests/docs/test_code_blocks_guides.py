"""Every code block of the guides runs; a file of its own, so that guides and other pages run side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).parents[2] / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_blocks_of_a_guide_run(page, run_page):
    run_page(page)
