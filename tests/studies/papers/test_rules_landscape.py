"""p099: random groups share no example with the groups they are held against, nor with each other."""

from __future__ import annotations

import numpy as np
import torch

from binderclip.studies.papers import p099_opposing_signals as opposing


def test_random_groups_have_the_classes_of_others_and_none_of_their_examples() -> None:
    targets = torch.arange(4).repeat_interleave(6)  # 6 examples of a class
    groups = [torch.tensor([0, 1, 6]), torch.tensor([2, 12, 13])]  # class 0: 3 are taken, 3 are asked for
    for seed in range(20):
        random = opposing.of_the_same_classes(groups, targets, np.random.default_rng(seed))
        for group, drawn in zip(groups, random, strict=True):
            assert targets[drawn].tolist() == targets[group].tolist()
        everything = torch.cat([*groups, *random]).tolist()
        assert len(set(everything)) == len(everything) == 12
