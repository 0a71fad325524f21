"""Smaller models: pruning of weights and of tokens, and computation in few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.compress.weights.nm import NMMask as NMMask
    from binderclip.compress.weights.nm import StructureDecay as StructureDecay
    from binderclip.compress.weights.nm import is_nm as is_nm
    from binderclip.compress.weights.nm import nm_mask as nm_mask
    from binderclip.compress.weights.nm import to_semi_structured as to_semi_structured
    from binderclip.compress.weights.rules import SRSTE as SRSTE
    from binderclip.compress.weights.rules import HardMask as HardMask
    from binderclip.compress.weights.rules import MaskDecay as MaskDecay
    from binderclip.compress.weights.rules import StraightThrough as StraightThrough
    from binderclip.compress.weights.rules import pruned_weight as pruned_weight
    from binderclip.compress.weights.sparse_training import SparseTraining as SparseTraining
    from binderclip.compress.weights.sparse_training import SparsityReport as SparsityReport
    from binderclip.compress.weights.sparse_weight import SparseWeight as SparseWeight
    from binderclip.compress.weights.sparse_weight import finalize_sparse as finalize_sparse

lazy_exports(__name__)
