"""`ImageTextModel`: one face for every contrastive image-text backbone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.backends import backend_of
from binderclip.models.image_text.encoder import PictureModel
from binderclip.models.image_text.preprocess import ImageLike, Preprocess, as_list, float_batch
from binderclip.models.padding import of_words
from binderclip.models.text.textbank import Rule, TextBank, descriptors
from binderclip.models.text.tokenize import TokenIds, Tokenizer
from binderclip.numeric import check_number
from binderclip.similarity.geometry import Cosine, Similarity

if TYPE_CHECKING:
    from binderclip.models.image_text.classification import Activation, Classification
    from binderclip.models.image_text.concepts import ConceptBranch
    from binderclip.models.image_text.encode import EncodedImages, OnError
    from binderclip.models.image_text.predictor import ZeroShotPredictor
    from binderclip.models.towers import Tower
    from binderclip.similarity.transforms import EmbeddingTransform


class ImageTextOutput(NamedTuple):
    """What `ImageTextModel.forward` gives: raw features, the scale (the factor itself) and the bias or None."""

    image_features: Float[Tensor, "B E"] | None
    text_features: Float[Tensor, "B E"] | None
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None


class ImageTextModel(PictureModel):
    """An image tower and a text tower with a shared embedding space, whatever library they come from.

    Images are anything: paths, bytes, PIL images, arrays, 8-bit tensors, or float tensors (B, 3, H, W) in [0, 1]; one
    or many; one image gives one row. Features are raw, as the backbone gives them, unless `normalize=True`. Float
    tensors, texts and `TokenIds` follow autograd's mode; files and 8-bit pictures never keep a graph.

    Args:
        backbone: the library's own model.
        kind: `open_clip` or one of transformers' (`backends.BACKENDS`): `hf-clip`, `hf-siglip`, ...
        name: the name it was loaded by.
        preprocess: pictures -> normalised input.
        tokenizer: texts -> ids.
        config: what `save` writes for open_clip (`{"model_cfg": ...}`).
        card: recipe, data and figures of the model.
        embed_dim: width E; measured on first use where not given.
        geometry: what it compares pictures with texts by, where that is not the cosine; kept by `save`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        kind: str,
        name: str,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        config: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        embed_dim: int | None = None,
        geometry: Similarity | None = None,
    ) -> None:
        super().__init__(backbone, name=name, preprocess=preprocess, card=card)
        self.kind, self.tokenizer, self.config = kind, tokenizer, dict(config or {})
        self._embed_dim = embed_dim
        self.geometry = geometry
        self._pooling = backend_of(kind).pooling(backbone)

    def extra_repr(self) -> str:
        return f"name={self.name!r}, kind={self.kind!r}, image_size={self.image_size}"

    # -- facts -------------------------------------------------------------------------------------------------

    @property
    def visual(self) -> nn.Module:
        """The backbone's module that holds the image tower."""
        return backend_of(self.kind).visual(self.backbone)

    @property
    def embed_dim(self) -> int:
        """Width E of the shared space."""
        if self._embed_dim is None:
            training = self.training
            self.eval()
            with torch.no_grad():
                self._embed_dim = self.encode_pixels(torch.zeros(1, 3, *self.preprocess.size)).shape[-1]
            self.train(training)
        return self._embed_dim

    @property
    def concepts(self) -> ConceptBranch | None:
        """The classifier beside the image tower whose classes are points of the text space (`everyday`), or None."""
        return getattr(self.backbone, "concepts", None)

    @property
    def logit_scale(self) -> Tensor:
        """The log of the factor on the similarities, the backbone's own parameter."""
        return self.backbone.logit_scale  # type: ignore[return-value]

    @property
    def logit_bias(self) -> Tensor | None:
        """What is added to the scaled similarities (SigLIP), the backbone's own parameter, or None."""
        return getattr(self.backbone, "logit_bias", None)

    def scale(self) -> Float[Tensor, ""]:
        """The factor on the similarities, 0-dim, differentiable."""
        return self.logit_scale.reshape(()).exp()

    @property
    def activation(self) -> Activation:
        """`sigmoid` for models trained with a bias (each label by itself), else `softmax`."""
        return "softmax" if self.logit_bias is None else "sigmoid"

    @property
    def fingerprint(self) -> str:
        """Hash of weights, precision, preprocessing, tokenizer, surgery and geometry, made again when one changed."""
        from binderclip.models.files.fingerprints import of_model

        return of_model(self)

    @property
    def dense_tower(self) -> Tower:
        """`image_tower`, or of a convolutional backbone one without blocks that gives its last feature map."""
        if "dense_tower" not in self._cache:
            from binderclip.models.towers.kinds.convolutional import dense_tower_of

            self._cache["dense_tower"] = dense_tower_of(self)
        return self._cache["dense_tower"]

    @property
    def text_tower(self) -> Any:
        """The text side opened up (see `models.towers`).

        Raises:
            NotSupported: the backbone is of a class that cannot be opened.
        """
        if "text_tower" not in self._cache:
            from binderclip.models import towers

            self._cache["text_tower"] = towers.open_text_tower(self.backbone)
        return self._cache["text_tower"]

    # -- encoding ----------------------------------------------------------------------------------------------

    def encode_pixels(self, pixels: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E"]:
        """The library's own forward on normalised pixels; raw features in float32 or better."""
        features = backend_of(self.kind).image(self.backbone, pixels.to(self.device, self.dtype))
        return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features

    def encode_image(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        normalize: bool = False,
        batch_size: int = 64,
        size: int | tuple[int, int] | None = None,
        on_error: OnError = "raise",
    ) -> Float[Tensor, "N E"]:
        """Image features.

        Args:
            images: one image or many, see the class; a float tensor may require gradients.
            normalize: rows of length one instead of raw features.
            batch_size: images that go through the model at once. In training mode a float tensor is one batch.
            size: input side or (h, w) in pixels, where the library's forward allows another; default the model's.
            on_error: `skip` leaves unreadable pictures out of the rows and warns, naming them (`encode_files` says
                which rows are left).

        Raises:
            UsageError: no image, or floats outside [0, 1].
            DataError: a picture that cannot be read.
        """
        check_number("batch_size", batch_size, least=1)
        batch = float_batch(images)
        if batch is not None:
            features = self._encode_floats(batch, batch_size, size)
            return functional.normalize(features, dim=-1) if normalize else features
        items = as_list(images)
        if not items:
            raise UsageError("images is empty: give at least one")
        if any(isinstance(item, Tensor) and item.is_floating_point() for item in items):
            rows = [self.encode_image(i, batch_size=batch_size, size=size, on_error=on_error) for i in items]
            features = torch.cat(rows)
            return functional.normalize(features, dim=-1) if normalize else features
        encoded = self.encode_files(items, normalize=normalize, batch_size=batch_size, size=size, on_error=on_error)
        if encoded.skipped:
            names = "; ".join(f"{key}: {reason}" for key, reason in encoded.skipped[:3])
            more = "" if len(encoded.skipped) <= 3 else f" and {len(encoded.skipped) - 3} more"
            warnings.warn(
                f"{len(encoded.skipped)} images could not be read and have no row: {names}{more}", stacklevel=2
            )
        return encoded.features

    def _encode_floats(self, batch: Tensor, batch_size: int, size: int | tuple[int, int] | None) -> Tensor:
        if len(batch) == 0:
            return torch.zeros(0, self.embed_dim, device=self.device)
        # Batch statistics must see the whole batch, so it is split for inference only.
        chunks = (batch,) if self.training else batch.split(batch_size)
        return torch.cat([self.encode_pixels(self.preprocess(chunk.to(self.device), size=size)) for chunk in chunks])

    def encode_files(self, sources: Sequence[ImageLike], **options: Any) -> EncodedImages:
        """Encode many pictures and report the unreadable ones; see `models.image_text.encode.encode_files`."""
        from binderclip.models.image_text.encode import encode_files

        return encode_files(self, list(sources), **options)

    def tokenize(self, texts: str | Sequence[str]) -> TokenIds:
        """Texts -> ids, mask and pooling position; over-long texts are cut, the end token kept, with one warning."""
        return self.tokenizer(texts, *self._pooling)

    def encode_text(
        self, texts: str | Sequence[str] | TokenIds, *, normalize: bool = False, batch_size: int = 256
    ) -> Float[Tensor, "Q E"]:
        """Text features.

        Args:
            texts: one text, several, or tokens.
            normalize: rows of length one instead of raw features.
            batch_size: texts that go through the model at once.

        Raises:
            UsageError: no text, or something that is not a text.
        """
        tokens = (texts if isinstance(texts, TokenIds) else self.tokenize(texts)).to(self.device)
        if len(tokens) == 0:
            raise UsageError("texts is empty: give at least one")
        step = len(tokens) if self.training else batch_size
        rows = []
        for i in range(0, len(tokens), step):
            part = tokens[i : i + step]
            with of_words(part.mask):
                rows.append(backend_of(self.kind).text(self.backbone, part))
        features = torch.cat(rows)
        features = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        return functional.normalize(features, dim=-1) if normalize else features

    def forward(
        self, images: Float[Tensor, "B 3 H W"] | None = None, texts: TokenIds | Sequence[str] | None = None
    ) -> ImageTextOutput:
        """Both sides of a training batch, for wrappers such as DistributedDataParallel that call the module."""
        bias = self.logit_bias
        return ImageTextOutput(
            None if images is None else self.encode_image(images),
            None if texts is None else self.encode_text(texts),
            self.scale(),
            None if bias is None else bias.reshape(()),
        )

    # -- similarity --------------------------------------------------------------------------------------------

    def similarity(
        self, image_features: Float[Tensor, "N E"], text_features: Float[Tensor, "M E"]
    ) -> Float[Tensor, "N M"]:
        """How alike pictures and texts are, as the model compares them: by cosine, unless `geometry` is set.

        Times `scale()`, plus `logit_bias` where there is one, these are the logits of the training loss.

        Args:
            image_features, text_features: as `encode_image` and `encode_text` give them, not normalised (cosines do
                not mind).
        """
        geometry = self.geometry or Cosine()
        return geometry(geometry.embed(image_features, "image"), geometry.embed(text_features, "text"))

    def with_transform(self, transform: EmbeddingTransform) -> ImageTextModel:
        """The same model with a fitted transform of its features in front of whatever it compares by.

        Weights are shared, features stay raw: `similarity`, `classify`, `text_bank`, search and evaluation map them.

        Args:
            transform: fitted on features of pictures and of texts of this model (`similarity.GapRemoval`, ...).

        Raises:
            UsageError: it was not fitted on both or for another width, or its outputs cannot be compared.
        """
        from binderclip.similarity.transformed import Transformed

        if transform.width != self.embed_dim:
            raise UsageError(
                f"the transform was fitted on embeddings of width {transform.width}, and those of {self.name} have "
                f"{self.embed_dim}"
            )
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a shallow copy would share the table itself
        other._cache, other.history = {}, list(self.history)
        # A correction of hubs belongs to the features as they were.
        behind = None if self.geometry is None or self.geometry.angular else self.geometry
        other.geometry = Transformed(transform, behind)
        return other

    def with_copied_visual(self) -> ImageTextModel:
        """The same model with an image tower of its own, for training it; the text side is shared, not copied."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._cache, other.history = {}, list(self.history)
        own = set(map(id, self.visual.modules()))
        # What holds the tower is copied around it, what lies beside it is shared.
        shared = {
            id(module): module
            for module in self.backbone.modules()
            if id(module) not in own and self.visual not in module.modules()
        }
        other.backbone = copy.deepcopy(self.backbone, shared)
        return other

    def need_cosines(self, what: str) -> None:
        """Refuse what compares by cosine, for a model that was trained to compare otherwise.

        Args:
            what: the caller, for the message.

        Raises:
            NotSupported: the model has a `geometry` in which more than directions count.
        """
        if self.geometry is not None and not self.geometry.angular:
            raise NotSupported(f"{what} works by cosines, and {self.name} compares by {self.geometry}")

    # -- zero-shot ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def text_bank(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: str | Sequence[str] | None = None,
        *,
        background: Sequence[str] = (),
    ) -> TextBank:
        """Encode the sentences of some classes, without gradients.

        Args:
            labels: class names, or class name -> sentences.
            templates: a set of `TEMPLATES` by name, one template, or several; None takes names and sentences as they
                are.
            background: names of further classes that stand for background, put behind the others.

        Raises:
            UsageError: no label, an empty or doubled one, an unknown template.
        """
        sentences = descriptors(labels, templates)
        extra = descriptors(list(background), templates) if background else {}
        repeated = [name for name in extra if name in sentences]
        if repeated:
            raise UsageError(f"{repeated[0]!r} is both a label and background")
        sentences.update(extra)
        texts = [text for own in sentences.values() for text in own]
        owner = [c for c, own in enumerate(sentences.values()) for _ in own]
        return TextBank(
            names=list(sentences),
            texts=texts,
            raw=self.encode_text(texts),
            owner=torch.tensor(owner, device=self.device),
            scale=self.scale().detach(),
            bias=None if self.logit_bias is None else self.logit_bias.detach().reshape(()).float(),
            background_names=tuple(extra),
            geometry=self.geometry,
        )

    def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        labels: Sequence[str] | Mapping[str, Sequence[str]] | TextBank,
        *,
        templates: str | Sequence[str] | None = None,
        top: int | None = None,
        rule: Rule = "mean-unit",
        batch_size: int = 64,
        on_error: OnError = "raise",
    ) -> Classification:
        """Which label fits each image; nothing is trained.

        Args:
            images: one image or many, see the class.
            labels: class names, class name -> sentences, or a bank made before.
            templates: as in `text_bank`.
            top: how many labels the result shows for each image; default all.
            rule: how the sentences of a class become one row.
            batch_size: images that go through the model at once.
            on_error: `skip` leaves unreadable pictures out; the result names them.

        Raises:
            UsageError: no image, no label, an empty or doubled label, `top` below 1.
            DataError: a picture that cannot be read.
        """
        from binderclip.models.image_text.classification import check_top

        if not isinstance(labels, TextBank):
            check_top(top, list(labels))
        bank = labels if isinstance(labels, TextBank) else self.text_bank(labels, templates)
        with torch.no_grad():
            batch = float_batch(images)
            if batch is not None:
                rows = self.encode_image(batch, batch_size=batch_size)
                return self.classify_features(rows, bank, rule=rule, top=top)
            items = as_list(images)
            if not items:
                raise UsageError("images is empty: give at least one")
            if any(isinstance(item, Tensor) and item.is_floating_point() for item in items):
                rows = self.encode_image(items, batch_size=batch_size)
                return self.classify_features(rows, bank, rule=rule, top=top)
        encoded = self.encode_files(items, batch_size=batch_size, on_error=on_error)
        return self.classify_features(
            encoded.features, bank, rule=rule, top=top, keys=encoded.keys, skipped=encoded.skipped
        )

    def classify_features(
        self,
        features: Float[Tensor, "N E"],
        bank: TextBank,
        *,
        rule: Rule = "mean-unit",
        top: int | None = None,
        keys: Sequence[str] = (),
        skipped: Sequence[tuple[str, str]] = (),
    ) -> Classification:
        """`classify` for features that are there already, raw or of length one."""
        from binderclip.models.image_text.classification import Classification, check_top, probabilities

        logits = bank.logits(features, rule)
        return Classification(
            labels=list(bank.names),
            probs=probabilities(logits, "softmax" if bank.bias is None else "sigmoid"),
            logits=logits,
            keys=list(keys),
            skipped=list(skipped),
            shown=check_top(top, bank.names),
        )

    def predictor(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | TextBank,
        *,
        templates: str | Sequence[str] | None = None,
        rule: Rule = "mean-unit",
        scale: float | None = None,
    ) -> ZeroShotPredictor:
        """A differentiable zero-shot classifier of pixels in [0, 1] (see `Predictor`)."""
        from binderclip.models.image_text.predictor import ZeroShotPredictor

        bank = labels if isinstance(labels, TextBank) else self.text_bank(labels, templates)
        return ZeroShotPredictor(self, bank, rule=rule, scale=scale)

    # -- on disk -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> Path:
        """Write the model as a folder that `load` and open_clip (`local-dir:FOLDER`) read.

        See `models.files.saving.save`.
        """
        from binderclip.models.files.saving import save

        return save(self, folder, dtype=dtype)
