"""What `click` does beside the prompts."""

from __future__ import annotations


def cuts_out(model: str, cut: bool | None = None) -> bool:
    """Whether masks are cut out anew: as was said, else those of the bundled model, whose own edges are coarse."""
    return model == "small-sam" if cut is None else cut
