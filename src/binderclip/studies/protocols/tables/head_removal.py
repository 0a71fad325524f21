"""A head averaged away, chosen by what its texts are about: does a classifier lean less on the ground?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binderclip.evaluate.groups import worst_group_accuracy
from binderclip.explain import decompose_image_embedding, description_pool, mean_ablate, name_heads
from binderclip.studies.harness.table import Row
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.data.biased_scenes import Pair, biased_scenes

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

SPURIOUS = ("colour", "texture", "place")


def head_removal(
    model: ImageTextModel, seed: int, pair: Pair, *, least_share: float, train: int, test: int, rate: float, size: int
) -> list[Row]:
    """Worst-group accuracy of a probe fitted on biased scenes, and of the zero-shot classifier, without one head.

    Args:
        model: whose heads.
        seed: of the scenes.
        pair: of classes, and their grounds.
        least_share: of the variance of all heads, from which a head is a candidate.
        train, test: scenes, those for testing without bias.
        rate: share of training scenes on their class's own ground.
        size: side of the scenes in pixels.
    """
    from sklearn.linear_model import LogisticRegression

    seen = biased_scenes(seed, train, pair, rate=rate, size=size, split="train")
    unseen = biased_scenes(seed + 50, test, pair, rate=0.5, size=size, split="val")
    fitted, tested = (decompose_image_embedding(model, part.images) for part in (seen, unseen))
    classes = np.array([names[0] for names in seen.names])
    truth = np.array([names[0] for names in unseen.names])
    pool = description_pool()
    named = name_heads(fitted, model.encode_text(list(pool.texts), normalize=True), pool.texts, roles=pool.roles)
    loud = [one for one in named if one.share >= least_share]
    chosen = max(loud, key=lambda one: one.weight(SPURIOUS))
    bank = model.text_bank([str(name) for name in np.unique(classes)], ("{}", "a {}.", "a picture of a {}."))

    def accuracies(heads: list[tuple[int, int]]) -> dict[str, float]:
        x, y = mean_ablate(fitted, heads), mean_ablate(tested, heads, reference=fitted)
        probe = LogisticRegression(C=10.0, max_iter=1000).fit(x.numpy(), classes).predict(y.numpy())
        zero_shot = np.array(bank.names)[model.classify_features(y, bank).logits.argmax(-1).numpy()]
        ground = unseen.attributes["background"]
        return {
            f"worst group, {name}": worst_group_accuracy(truth, said, ground).worst
            for name, said in (("probe", probe), ("zero-shot", zero_shot))
        }

    with one_thread():
        each = {(one.layer, one.head): accuracies([(one.layer, one.head)]) for one in loud}
        none = accuracies([])
    rows = []
    for metric, value in none.items():
        others = [found[metric] for head, found in each.items() if head != (chosen.layer, chosen.head)]
        rows += [
            Row(metric, "nothing ablated", value),
            Row(metric, "head by TextSpan", each[chosen.layer, chosen.head][metric]),
            Row(metric, "another head at random", float(np.mean(others))),
            Row(metric, "best head, known afterwards", max(found[metric] for found in each.values())),
        ]
    return rows
