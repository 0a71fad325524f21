"""What heads share that train through a model's encoders: the model itself, names for prompts, cheap clones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sklearn.base import clone

from binderclip.adapt.heads.prior import prior_rows
from binderclip.adapt.heads.tuned import TunedHead
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


class SharedModel:
    """Mixin of the estimators with a constructor argument `model`: clones for folds and grids share it.

    A model is data, not a setting; scikit-learn would copy it for each of them.
    """

    model: Any

    def __sklearn_clone__(self) -> Any:
        settings = {
            name: clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()  # type: ignore[attr-defined]
            if name != "model"
        }
        return type(self)(model=self.model, **settings)  # type: ignore[call-arg]


@dataclass(kw_only=True, eq=False, repr=False)
class _ModelFirst:
    """The first argument of a `ModelHead`: fields of the last base come first."""

    model: ImageTextModel = field(kw_only=False)

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, type(self).__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class ModelHead(SharedModel, TunedHead, _ModelFirst):
    """Base of the heads whose first constructor argument is `model`, which they look through and leave as it is."""

    names: Mapping[Any, str] | Sequence[str] | None = None

    def _set_prior(self, labels: list[Any]) -> None:
        super()._set_prior(labels)
        if self.scale is None and (self.text_prior is None or prior_rows(self.text_prior, self.classes)[2] is None):
            self.scale_ = float(self.model.scale().detach())

    def _prompt_names(self, labels: Sequence[Any]) -> list[str]:
        """What a prompt calls each class."""
        if self.names is None:
            return [str(label) for label in labels]
        if isinstance(self.names, Mapping):
            missing = [label for label in labels if label not in self.names]
            if missing:
                raise UsageError(f"names has no text for class {missing[0]!r}")
            return [str(self.names[label]) for label in labels]
        if len(self.names) != len(labels):
            raise UsageError(
                f"names has {len(self.names)} texts for {len(labels)} classes; they follow the sorted labels: {labels}"
            )
        return [str(name) for name in self.names]
