"""Alignment of two prompts: what the published Prompt-to-Prompt code (`seq_aligner.py`) gives for the same tokens."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import product

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import LatentDenoiser, refinement_mapper, replacement_mapper

REFINED = {  # the published get_mapper, over 16 tokens; "grass" is five tokens here
    ("a dog on a cat", "a red dog on a cat"): [0, 1, -1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15],
    ("a dog on grass", "a cat on red grass"): [0, 1, -1, 3, -1, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15],
    ("a red dog", "a dog"): [0, 1, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    ("red dog cat", "cat dog red"): [0, 3, -1, -1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
}
REPLACED = {  # the published get_replacement_mapper_; "bee" is three tokens
    ("a dog on a cat", "a cat on a dog"): {(k, k): 1.0 for k in range(16)},
    ("a dog on a", "a bee on a"): {(0, 0): 1.0, (1, 1): 1.0, **{(2, k): 1 / 3 for k in (2, 3, 4)}}
    | {(k, k): 1.0 for k in range(5, 16)},
    ("a bee on a", "a dog on a"): {(0, 0): 1.0, (1, 1): 1.0, **{(k, 2): 1.0 for k in (2, 3, 4)}}
    | {(k, k): 1.0 for k in range(3, 14)},
    ("a dog on bee", "a bee on dog"): {(0, 0): 1.0, (1, 1): 1.0, **{(2, k): 1 / 3 for k in (2, 3, 4)}, (3, 5): 1.0}
    | {(k, 6): 1.0 for k in (4, 5, 6)}
    | {(k, k): 1.0 for k in range(7, 16)},
}


@pytest.mark.parametrize(("prompts", "expected"), REFINED.items())
def test_refinement_is_that_of_the_published_code(
    tiny_denoiser: LatentDenoiser, prompts: tuple[str, str], expected: list[int]
) -> None:
    mapper, aligned = refinement_mapper(tiny_denoiser.text, *prompts)
    assert mapper.tolist() == expected
    assert aligned.tolist() == [position >= 0 for position in expected]


@pytest.mark.parametrize(("prompts", "expected"), REPLACED.items())
def test_replacement_is_that_of_the_published_code(
    tiny_denoiser: LatentDenoiser, prompts: tuple[str, str], expected: dict[tuple[int, int], float]
) -> None:
    mapper = replacement_mapper(tiny_denoiser.text, *prompts)
    reference = torch.zeros(16, 16)
    for place, weight in expected.items():
        reference[place] = weight
    torch.testing.assert_close(mapper, reference)


def test_an_alignment_pairs_equal_tokens_in_order_and_as_many_as_can_be(tiny_denoiser: LatentDenoiser) -> None:
    text = tiny_denoiser.text
    prompts = [" ".join(words) for words in product(("red", "dog", "cat"), repeat=3)]
    for source, target in list(product(prompts, prompts))[::7]:
        mapper, _ = refinement_mapper(text, source, target)
        old, new = [0, *text.tokens(source), 1], [0, *text.tokens(target), 1]
        pairs = [(int(i), j) for j, i in enumerate(mapper[: len(new)]) if i >= 0]
        assert [i for i, _ in pairs] == sorted({i for i, _ in pairs})
        assert all(old[i] == new[j] or i == len(old) - 1 for i, j in pairs)
        # the longest common subsequence, by brute force over the subsets of five tokens
        subsets = [[k for k in range(5) if bits >> k & 1] for bits in range(32)]
        common = {tuple(old[k] for k in subset) for subset in subsets} & {
            tuple(new[k] for k in subset) for subset in subsets
        }
        assert len(pairs) == max(len(tokens) for tokens in common)
        assert len(pairs) >= sum(block.size for block in SequenceMatcher(None, old, new).get_matching_blocks())


def test_prompts_that_cannot_be_aligned_are_refused(tiny_denoiser: LatentDenoiser) -> None:
    with pytest.raises(UsageError, match=r"has 2 and 'a red cat' 3; use AttentionRefine"):
        replacement_mapper(tiny_denoiser.text, "a dog", "a red cat")
    with pytest.raises(UsageError, match="'dog' stands beyond the 14 tokens"):
        replacement_mapper(tiny_denoiser.text, "grass grass grass dog", "grass grass grass cat")
    long = "grass grass grass dog"
    assert refinement_mapper(tiny_denoiser.text, long, long)[0].tolist() == list(range(16))
