"""Watched parameters and what is computed from them, and every place where one meets the batch."""

from __future__ import annotations

from torch import Tensor

from binderclip.privacy.per_sample.contributions import Contribution


class Source:
    """A watched parameter, or a tensor computed from watched parameters and constants alone.

    Attributes:
        tensor: the parameter, or the computed tensor with its graph.
        value: detached; what operations with data get.
        leaf: stands for the parameter in the graphs of computed tensors; None for a computed tensor.
        copies_of: the source of which this one is B equal copies along dimension 0.
        uses: where it met data.
    """

    def __init__(self, tensor: Tensor, name: str, *, leaf: Tensor | None = None, copies_of: Source | None = None):
        self.tensor, self.name, self.leaf, self.copies_of = tensor, name, leaf, copies_of
        self.value = tensor.detach()
        self.uses: list[Use] = []
        self.square: Tensor | None = None


class Use:
    """One operation in which a source met data.

    Attributes:
        what: names it in messages.
        kept: the contribution, once the backward pass has been there.
        lifted: B copies of the source in the graph, whose gradient is the contribution.
    """

    def __init__(self, source: Source, what: str, lifted: Tensor | None = None) -> None:
        self.source, self.what, self.lifted = source, f"{source.name} in {what}", lifted
        self.kept: Contribution | None = None
        source.uses.append(self)
