"""Which channels of an image tower's map belong to a concept, learned from labels of whole images (Mammo-FActOR)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number

__all__ = ["ConceptMapper", "concept_boxes", "tower_maps"]

Maps = Float[Tensor, "B C h w"]
Labels = Bool[Tensor, "B A"] | Int[Tensor, "B A"] | Float[Tensor, "B A"]


class ConceptMapper(nn.Module):
    """Embed every channel of a feature map beside texts of concepts; the channels near a text show where it is.

    Each concept a has a network of its own, Linear(hw, hw), ReLU, Linear(hw, d), for the h x w values of one channel;
    its output r_ca is compared with the text t_a by cosine. An image's score is the best channel's over the
    temperature, and images that have the concept are told from those that have not (equation of L_mapper). A heat map
    is the sum of channels weighted by relu(r_ca . t_a). The tower stays as it is; sizes of the map are fixed, as
    networks act on places.

    A network sees one channel at a time and not which: exchanging channels changes no score. A channel is known by its
    values alone, by the level that the tower gives it or by the shape of what it lights, so maps should keep each
    channel's mean; standardised channel by channel they look alike, and concepts of one shape cannot be told apart.
    The best channel alone gets a gradient, so that a start may find nothing: try several seeds. On scenes of drawings
    it did not learn what a linear probe of the maps' means tells at once (study p064): try that one first.

    The paper leaves the heat map's formula open; the rectified weights and the rectified sum are ours. The released
    notebook stacks the networks' outputs one after the other and then cuts the rows into groups of A, so that concept a
    is compared with every A-th channel of every network; here it is compared with all channels of its own.

    Args:
        n_concepts: A.
        n_positions: h w of the map.
        dim: d of the texts.
        temperature: of the scores.
        mask_positives: leave the other images that have the concept out of the sum a positive is compared with; False,
            as released, counts each of them, and itself, as a negative of score 0.
        seed: of the weights.

    Raises:
        UsageError: a size below 1, or a temperature that is not positive; at a call, shapes that do not fit, or values
            that are not finite.

    Paper: Ghosh et al., "Mammo-CLIP: A Vision Language Foundation Model to Enhance Data Efficiency and Robustness in
    Mammography", arXiv 2405.12255.

    Examples:
        >>> mapper = ConceptMapper(2, 16, 8)
        >>> maps, text = torch.rand(6, 5, 4, 4), torch.randn(2, 8)
        >>> labels = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
        >>> history = mapper.fit(maps, labels, text, epochs=3)
        >>> mapper.heatmap(maps, text, (64, 64)).shape
        torch.Size([6, 2, 64, 64])
    """

    def __init__(
        self,
        n_concepts: int,
        n_positions: int,
        dim: int,
        *,
        temperature: float = 0.07,
        mask_positives: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(n_concepts, n_positions, dim) < 1:
            raise UsageError(
                f"concepts, positions and width must be at least 1, got {n_concepts}, {n_positions}, {dim}"
            )
        check_number("temperature", temperature, above=0)
        self.n_concepts, self.n_positions, self.dim = n_concepts, n_positions, dim
        self.temperature, self.mask_positives, self.seed = temperature, mask_positives, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks = nn.ModuleList(
                nn.Sequential(nn.Linear(n_positions, n_positions), nn.ReLU(), nn.Linear(n_positions, dim))
                for _ in range(n_concepts)
            )

    def extra_repr(self) -> str:
        return f"{self.n_concepts}, {self.n_positions}, {self.dim}, temperature={self.temperature}"

    def cosines(self, feature_map: Maps, text: Float[Tensor, "A d"]) -> Float[Tensor, "B A C"]:
        """Cosine of every channel with every concept.

        Args:
            feature_map: of the frozen tower.
            text: one embedding a concept, of any length: the mean of its prompts' unit embeddings, say.
        """
        self._check(feature_map, text)
        channels, unit = feature_map.flatten(2), F.normalize(text, dim=1)  # (B, C, hw)
        cosines = [F.normalize(network(channels), dim=2) @ unit[a] for a, network in enumerate(self.networks)]
        return torch.stack(cosines, 1)

    def _check(self, feature_map: Tensor, text: Tensor) -> None:
        if feature_map.ndim != 4 or feature_map.shape[2] * feature_map.shape[3] != self.n_positions:
            raise UsageError(
                f"the feature map must be (B, C, h, w) of {self.n_positions} places, got {tuple(feature_map.shape)}"
            )
        if text.shape != (self.n_concepts, self.dim):
            raise UsageError(f"text must be (A, d) = {(self.n_concepts, self.dim)}, got {tuple(text.shape)}")
        for value, name in ((feature_map, "the feature map"), (text, "text")):
            if not bool(value.isfinite().all()):
                raise UsageError(f"{name} has values that are not finite")

    def scores(self, feature_map: Maps, text: Float[Tensor, "A d"]) -> Float[Tensor, "B A"]:
        """The best channel's cosine with each concept, over the temperature; see `cosines`.

        The gradient is that of the best channel, one of those that tie; the others are only searched.
        """
        self._check(feature_map, text)
        channels, unit = feature_map.flatten(2), F.normalize(text, dim=1)  # (B, C, hw)
        scores = []
        for a, network in enumerate(self.networks):
            best = self._best(channels.detach(), network, unit[a].detach())
            chosen = channels[torch.arange(len(channels), device=channels.device), best]  # (B, hw)
            scores.append(F.normalize(network(chosen), dim=1) @ unit[a])
        return torch.stack(scores, 1) / self.temperature

    @torch.no_grad()
    def _best(self, channels: Float[Tensor, "B C hw"], network: Any, unit: Float[Tensor, "d"]) -> Int[Tensor, "B"]:
        """Which channel's output is nearest to a text; lengths of outputs by the last layer's Gram matrix, hw x hw."""
        first, activation, last = network
        hidden = activation(first(channels))  # (B, C, hw)
        squared = (hidden @ (last.weight.T @ last.weight) * hidden).sum(2)  # |W h|^2
        squared = squared + 2 * (hidden @ (last.weight.T @ last.bias)) + last.bias.square().sum()
        along = hidden @ (last.weight.T @ unit) + last.bias @ unit
        return (along / squared.clamp_min(1e-12).sqrt()).argmax(1)

    def loss(self, feature_map: Maps, labels: Labels, text: Float[Tensor, "A d"]) -> Float[Tensor, ""]:
        """Cross-entropy of each image that has a concept against those that have not, mean over these; 0 without any.

        Args:
            feature_map, text: see `cosines`.
            labels: 1 where an image has a concept.
        """
        scores = self.scores(feature_map, text)
        if labels.shape != scores.shape or not bool(((labels == 0) | (labels == 1)).all()):
            raise UsageError(f"labels must be zeros and ones (B, A) = {tuple(scores.shape)}, got {tuple(labels.shape)}")
        has = labels > 0
        others = scores.masked_fill(has, -torch.inf if self.mask_positives else 0.0).logsumexp(0)  # (A,)
        rows = torch.logaddexp(scores, others.expand_as(scores)) - scores
        return torch.where(has, rows, 0.0).sum() / has.sum().clamp_min(1)

    def fit(
        self,
        feature_map: Maps,
        labels: Labels,
        text: Float[Tensor, "A d"],
        *,
        epochs: int = 50,
        batch: int = 32,
        lr: float = 1e-3,
        patience: int = 5,
        held_out: float = 0.2,
    ) -> list[float]:
        """Train on labels of whole images until the loss of held-out ones has not improved for some epochs.

        Args:
            feature_map: of all N images, by the frozen tower.
            labels, text: see `loss`.
            epochs: at most.
            batch: images a step.
            lr: of AdamW, constant.
            patience: epochs without improvement after which the best weights are taken.
            held_out: share of the images that is not trained on, at least one.

        Returns:
            Loss of the held-out images after each epoch.

        Raises:
            UsageError: fewer than three images, a setting out of range, or a concept that no training image has.
        """
        from binderclip.fit import fit

        n = len(feature_map)
        if n < 3 or len(labels) != n:
            raise UsageError(f"training needs at least 3 images with labels, got {n} images, {len(labels)} labels")
        if min(epochs, batch, patience) < 1 or not 0 < held_out < 1:
            raise UsageError("epochs, batch and patience must be at least 1, and held_out in (0, 1)")
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(n, generator=generator)
        kept, rows = order[: max(1, round(held_out * n))], order[max(1, round(held_out * n)) :]
        missing = (labels[rows] > 0).any(0).logical_not().nonzero().flatten().tolist()
        if missing:
            raise UsageError(f"no training image has concept {missing[0]}")
        parts = [
            part for _ in range(epochs) for part in rows[torch.randperm(len(rows), generator=generator)].split(batch)
        ]

        def measured(part: Tensor) -> Tensor:
            return self.loss(feature_map[part], labels[part], text)

        feature_map, text = feature_map.detach(), text.detach()  # what made them is frozen
        best = _Best(self, lambda: float(measured(kept)), -(-len(rows) // batch), patience)
        fit(measured, self, parts, steps=len(parts), lr=lr, schedule="constant", callbacks=[best])
        self.load_state_dict(best.state)
        return best.history

    @torch.no_grad()
    def heatmap(
        self, feature_map: Maps, text: Float[Tensor, "A d"], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "B A H W"]:
        """Where each concept is, in [0, 1] map by map; a map of one value becomes 0.

        Args:
            feature_map, text: see `cosines`.
            size: (H, W) of the result; None is the map's own.
        """
        weights = self.cosines(feature_map, text).clamp_min(0)
        maps = torch.einsum("bac,bchw->bahw", weights, feature_map).clamp_min(0)
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        maps = (maps - low) / (high - low).clamp_min(1e-12)
        return maps if size is None else F.interpolate(maps, size=size, mode="bilinear")


class _Best:
    """Keeps the weights of the least held-out loss, and stops where it has not fallen for so many epochs."""

    def __init__(self, module: nn.Module, measure: Callable[[], float], each: int, patience: int) -> None:
        self.module, self.measure, self.each, self.patience = module, measure, each, patience
        self.history: list[float] = []
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def after_step(self, done: int) -> bool:
        """Whether to stop, after so many steps."""
        if done % self.each:
            return False
        self.history.append(self.measure())
        least = self.history.index(min(self.history))
        if least == len(self.history) - 1:
            self.state = {name: value.clone() for name, value in self.module.state_dict().items()}
        return len(self.history) - 1 - least >= self.patience


def concept_boxes(maps: Float[Tensor, "B A H W"], threshold: float = 0.5) -> Float[Tensor, "B A 4"]:
    """Box of the largest connected region of each map that reaches a threshold.

    Args:
        maps: of `ConceptMapper.heatmap`.
        threshold: in (0, 1].

    Returns:
        (x1, y1, x2, y2) in pixels, half-open; NaN where nothing reaches the threshold.

    Raises:
        UsageError: maps of another shape, or a threshold out of range.
    """
    if maps.ndim != 4 or not 0 < threshold <= 1:
        raise UsageError(f"maps must be (B, A, H, W) and threshold in (0, 1], got {tuple(maps.shape)} and {threshold}")
    boxes = torch.full((*maps.shape[:2], 4), torch.nan)
    for b, a in torch.cartesian_prod(*map(torch.arange, maps.shape[:2])).view(-1, 2).tolist():
        regions, count = ndimage.label(maps[b, a].cpu().numpy() >= threshold)
        if count:
            sizes = ndimage.sum_labels(regions > 0, regions, range(1, count + 1))
            rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
            boxes[b, a] = torch.tensor([columns.start, rows.start, columns.stop, rows.stop], dtype=torch.float32)
    return boxes


@torch.no_grad()
def tower_maps(model: Any, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """Feature maps of a model's image tower after its last block, one channel a coordinate of its tokens.

    Args:
        model: an `ImageTextModel` or another with `image_tower` and `preprocess`.
        images: in [0, 1].

    Raises:
        NotSupported: a tower without tokens.
    """
    refuse_bare_module(model, "tower_maps")
    tower = model.image_tower
    tokens = tower.run(tower.embed(model.preprocess(images).to(tower.device)))
    assert tokens.grid is not None
    return tokens.x[:, tower.prefix :].transpose(1, 2).unflatten(2, tokens.grid).float()
