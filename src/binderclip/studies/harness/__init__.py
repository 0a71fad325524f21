"""What every study shares: the study, its criteria, the runner, the page and the figures, imported from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.studies.harness.criteria import Criterion as Criterion
    from binderclip.studies.harness.criteria import Precondition as Precondition
    from binderclip.studies.harness.declared import declared_study as declared_study
    from binderclip.studies.harness.features import dataset_features as dataset_features
    from binderclip.studies.harness.features import dataset_pre_projection as dataset_pre_projection
    from binderclip.studies.harness.features import tensor_features as tensor_features
    from binderclip.studies.harness.loops import accuracy as accuracy
    from binderclip.studies.harness.loops import train_classifier as train_classifier
    from binderclip.studies.harness.null import random_rows as random_rows
    from binderclip.studies.harness.panels import Figure as Figure
    from binderclip.studies.harness.panels import bare as bare
    from binderclip.studies.harness.panels import bars as bars
    from binderclip.studies.harness.panels import dot_panels as dot_panels
    from binderclip.studies.harness.panels import dots as dots
    from binderclip.studies.harness.panels import effects as effects
    from binderclip.studies.harness.panels import lines as lines
    from binderclip.studies.harness.panels import pictures as pictures
    from binderclip.studies.harness.panels import segmentations as segmentations
    from binderclip.studies.harness.power import Estimate as Estimate
    from binderclip.studies.harness.power import Pilot as Pilot
    from binderclip.studies.harness.quantities import Quantity as Quantity
    from binderclip.studies.harness.quantities import combined as combined
    from binderclip.studies.harness.quantities import quantity as quantity
    from binderclip.studies.harness.quantities import value_of as value_of
    from binderclip.studies.harness.study import FIRST_RULES as FIRST_RULES
    from binderclip.studies.harness.study import Study as Study
    from binderclip.studies.harness.table import Row as Row
    from binderclip.studies.harness.table import Table as Table
    from binderclip.studies.harness.threads import one_thread as one_thread

lazy_exports(__name__)
