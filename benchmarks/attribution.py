"""Attribution: shared passes against one method alone, the raw passes, Captum and pytorch-grad-cam."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Row, compare, in_child
from binderclip.explain import (
    GradCAM,
    GradCAMPlusPlus,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    attribute_all,
)

SAMPLES, REPEATS = 50, 5
FEWER = {"resnet50": (16, 2), "ViT-B/16": (16, 2)}
"""Copies and pairs of the large stages: 50 copies would take an hour on two cores, and the ratios do not hang on it."""
BATCH = 16
CLEAN = "ours has one forward more, of the clean image, which says what the target scores: a third of a pass on {}"
"""Of methods on many copies: what few copies cannot hide."""


@dataclass
class Stage:
    """A model with a target, as we and as the peers see it.

    Attributes:
        name: of the model.
        model: explained by us.
        images: (1, 3, H, W).
        target: ours.
        forward: images -> scores (B, K), for the peers.
        index: of the target among them.
        layer: of class activation maps, by name; None for ours to find.
        module: the same layer; None where it cannot be hooked.
        fold: tokens (B, L, D) -> (B, D, h, w), where the layer gives tokens.
    """

    name: str
    model: Any
    images: Tensor
    target: Any
    forward: Callable[[Tensor], Tensor]
    index: int
    layer: str | None
    module: nn.Module | None
    fold: Callable[[Tensor], Tensor] | None = None


def stages() -> list[Stage]:
    """ResNet-50 and ViT-B/16 with random weights, and the bundled `small` with a text."""
    import timm

    from binderclip.models import load

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 224, 224, generator=generator)
    torch.manual_seed(0)
    resnet, vit = (
        timm.create_model(name, num_classes=100).eval().requires_grad_(False)
        for name in ("resnet50", "vit_base_patch16_224")
    )
    small = load("small").requires_grad_(False)
    text = small.encode_text("a cat", normalize=True)

    def cosine(x: Tensor) -> Tensor:
        return F.normalize(small.encode_pixels(small.preprocess.normalize(x)), dim=-1) @ text.T

    return [
        Stage("resnet50", resnet, images, 7, resnet, 7, None, resnet.layer4),
        Stage("ViT-B/16", vit, images, 7, vit, 7, "blocks.11.norm1", vit.blocks[11].norm1,
              lambda x: x[:, 1:].transpose(1, 2).unflatten(2, (14, 14))),
        # A target that has its text encoded, as the peers' has.
        Stage("small", small, images[..., :128, :128].contiguous(),
              lambda features: (F.normalize(features, dim=-1) @ text.T)[:, 0], cosine, 0, None, None),
    ]  # fmt: skip


def run(*, repeats: int | None = None, samples: int | None = None, only: Sequence[str] | None = None) -> list[Row]:
    """All rows.

    Args:
        repeats: pairs; None for those of the stage.
        samples: noisy copies and nodes; None for those of the stage.
        only: names of stages; None for all.
    """
    rows: list[Row] = []
    asked = (samples, repeats)
    for stage in stages():
        if only is None or stage.name in only:
            usual = FEWER.get(stage.name, (SAMPLES, REPEATS))
            samples, repeats = (own or other for own, other in zip(asked, usual, strict=True))
            rows += _shared(stage, repeats, samples)
            rows += _singles(stage, repeats, samples)
            rows += _peers(stage, repeats, samples)
            rows += _half(stage, repeats, samples)
    return [*rows, *_memory(asked[0] or SAMPLES)]


def raw(stage: Stage, passes: int, batch: int = BATCH, inner: bool = False) -> None:
    """So many forwards and backwards to the input (or only to the layer of class activation maps), and nothing else."""
    kept: list[Tensor] = []
    handle = None
    if inner and stage.module is not None:
        handle = stage.module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    for start in range(0, passes, batch):
        x = stage.images.repeat(min(batch, passes - start), 1, 1, 1).requires_grad_()
        score = stage.forward(x)[:, stage.index].sum()
        torch.autograd.grad(score, kept[-1] if kept else x)
        kept.clear()
    if handle is not None:
        handle.remove()


def noise_family(stage: Stage, samples: int) -> dict[str, Any]:
    """Four methods on the same noisy copies."""
    return {
        "smooth": SmoothGrad(samples),
        "squared": SmoothGrad(samples, statistic="mean-square"),
        "variance": SmoothGrad(samples, statistic="variance"),
        "smooth cam++": SmoothGradCAMPlusPlus(stage.layer, n_samples=samples),
    }


def sheet(stage: Stage, samples: int) -> dict[str, Any]:
    """Ten methods that need the image, its noisy copies and a path."""
    return {
        "saliency": Saliency(),
        "magnitude": Saliency(reduce="l2"),
        "product": InputXGradient(),
        "cam": GradCAM(stage.layer),
        "cam++": GradCAMPlusPlus(stage.layer),
        **noise_family(stage, samples),
        "path": IntegratedGradients(samples),
    }


def _shared(stage: Stage, repeats: int, samples: int) -> list[Row]:
    family, ten = noise_family(stage, samples), sheet(stage, samples)
    found = attribute_all(stage.model, stage.images, stage.target, methods=family)
    for name, method in family.items():
        alone = method(stage.model, stage.images, stage.target).maps()
        assert torch.allclose(found[name].maps(), alone, rtol=1e-3, atol=1e-7), name

    def all_of(methods: dict[str, Any]) -> Any:
        return attribute_all(stage.model, stage.images, stage.target, methods=methods)

    def distinct() -> None:
        raw(stage, 1)
        raw(stage, samples)
        raw(stage, samples)

    return [
        compare(f"{stage.name}: SmoothGrad, squared, VarGrad and Smooth Grad-CAM++, {samples} copies",
                lambda: all_of(family), lambda: family["smooth"](stage.model, stage.images, stage.target),
                repeats=repeats, unit="s", speedup=False, goal="at most 1.15x", target=1.15,
                peer_name="SmoothGrad alone"),
        compare(f"{stage.name}: contact sheet of ten methods", lambda: all_of(ten), distinct,
                repeats=repeats, unit="s", speedup=False, goal="at most 1.1x", target=1.1,
                peer_name=f"{2 * samples + 1} raw passes"),
    ]  # fmt: skip


def _singles(stage: Stage, repeats: int, samples: int) -> list[Row]:
    plan: list[tuple[str, Any, int, bool]] = [
        ("saliency", Saliency(), 1, False),
        ("Grad-CAM", GradCAM(stage.layer), 1, True),
        ("Grad-CAM++", GradCAMPlusPlus(stage.layer), 1, True),
        ("SmoothGrad", SmoothGrad(samples), samples, False),
        ("integrated gradients", IntegratedGradients(samples), samples, False),
    ]
    return [
        compare(f"{stage.name}: {name} against its raw passes",
                lambda m=method: m(stage.model, stage.images, stage.target),
                lambda n=passes, i=inner: raw(stage, n, inner=i),
                repeats=repeats if passes > 1 else 3 * repeats, speedup=False, goal="at most 1.05x", target=1.05,
                peer_name="raw passes", note=CLEAN.format(passes) if 1 < passes < 20 else "")
        for name, method, passes, inner in plan
    ]  # fmt: skip


def _peers(stage: Stage, repeats: int, samples: int) -> list[Row]:
    from captum.attr import IntegratedGradients as CaptumPath
    from captum.attr import LayerGradCam, NoiseTunnel
    from captum.attr import Saliency as CaptumSaliency
    from pytorch_grad_cam import GradCAMPlusPlus as PeerPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    x, index = stage.images, stage.index

    def fed() -> Tensor:
        return x.clone().requires_grad_()

    def tunnel(kind: str) -> Tensor:
        peer = NoiseTunnel(CaptumSaliency(stage.forward))
        return peer.attribute(fed(), nt_type=kind, nt_samples=samples, nt_samples_batch_size=BATCH,
                              stdevs=0.15, target=index, abs=False)  # fmt: skip

    def path() -> Tensor:
        peer = CaptumPath(stage.forward)
        return peer.attribute(fed(), target=index, n_steps=samples, internal_batch_size=BATCH, method="gausslegendre")

    def ours(method: Any) -> Callable[[], Tensor]:
        return lambda: method(stage.model, x, stage.target).maps()

    pairs: list[tuple[str, Any, Callable[[], Any], bool]] = [
        ("saliency", Saliency(), lambda: CaptumSaliency(stage.forward).attribute(fed(), target=index).amax(1), True),
        ("integrated gradients", IntegratedGradients(samples), lambda: path().sum(1).float(), True),
        # The peer draws its own noise, so equal maps are the business of the tests.
        ("SmoothGrad", SmoothGrad(samples), lambda: tunnel("smoothgrad"), False),
    ]
    if stage.module is not None:
        cam = PeerPlus(stage.forward, [stage.module], reshape_transform=stage.fold)
        pairs.append(("Grad-CAM++", GradCAMPlusPlus(stage.layer),
                      lambda: cam(fed(), [ClassifierOutputTarget(index)]), False))  # fmt: skip
    if stage.module is not None and stage.fold is None:
        layer = LayerGradCam(stage.forward, stage.module)
        method = GradCAM(stage.layer, signed=True)
        got, wanted = method(stage.model, x, stage.target).layers[0], layer.attribute(fed(), target=index)[:, 0]
        assert torch.allclose(got, wanted.detach(), rtol=1e-3, atol=1e-7)
        pairs.append(("Grad-CAM", method, lambda: layer.attribute(fed(), target=index), False))
    rows = []
    for name, method, peer, equal in pairs:
        if equal:
            got, wanted = ours(method)(), peer()
            assert torch.allclose(got, wanted, rtol=1e-2, atol=1e-3 * float(wanted.detach().abs().max())), name
        library = "pytorch-grad-cam" if name == "Grad-CAM++" else "Captum"
        rows.append(compare(f"{stage.name}: {name}", ours(method), peer, repeats=repeats, peer_name=library))
    family = noise_family(stage, samples)
    rows.append(
        compare(f"{stage.name}: SmoothGrad, squared and VarGrad",
                lambda: attribute_all(stage.model, x, stage.target, methods=family),
                lambda: [tunnel(kind) for kind in ("smoothgrad", "smoothgrad_sq", "vargrad")],
                repeats=repeats, unit="s", peer_name="Captum, three calls", note="ours with Smooth Grad-CAM++ besides")
    )  # fmt: skip
    return rows


def _half(stage: Stage, repeats: int, samples: int) -> list[Row]:
    from scipy.stats import spearmanr

    family = noise_family(stage, samples)

    def found(precision: str) -> dict[str, Any]:
        return attribute_all(stage.model, stage.images, stage.target, methods=family, precision=precision)

    full, half = found("float32"), found("bfloat16")
    ranks = ", ".join(
        f"{name} {spearmanr(full[name].layers[0].flatten(), half[name].layers[0].flatten()).statistic:.3f}"
        for name in family
    )
    return [
        compare(
            f"{stage.name}: the four noise methods in bfloat16",
            lambda: found("bfloat16"),
            lambda: found("float32"),
            repeats=repeats,
            unit="s",
            peer_name="ours in float32",
            note=f"rank correlation with float32: {ranks}",
        )
    ]


def peak(who: str, samples: int) -> int:
    """Peak memory of this process after SmoothGrad on ResNet-50, in bytes."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=100).eval().requires_grad_(False)
    x = torch.rand(1, 3, 224, 224)
    model(x)
    if who == "ours":
        SmoothGrad(samples)(model, x, 7)
    else:
        from captum.attr import NoiseTunnel
        from captum.attr import Saliency as CaptumSaliency

        tunnel = NoiseTunnel(CaptumSaliency(model))
        many = BATCH if who == "batched" else samples
        tunnel.attribute(x, nt_samples=samples, nt_samples_batch_size=many, stdevs=0.15, target=7, abs=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(samples: int) -> list[Row]:
    code = (
        "import json, sys; from benchmarks.attribution import peak; "
        "print(json.dumps({'bytes': peak(sys.argv[1], int(sys.argv[2]))}))"
    )
    found = {who: in_child(code, who, str(samples))["bytes"] / 1e9 for who in ("ours", "batched", "whole")}
    return [
        Row(f"resnet50: peak memory of SmoothGrad, {samples} copies, in GB", found["ours"], found[peer], "GB",
            found["ours"] / found[peer], found["ours"] / found[peer], found["ours"] / found[peer],
            goal="at most 1x", met=found["ours"] <= found[peer], peer_name=name)
        for peer, name in (("batched", "Captum, 16 at once"), ("whole", "Captum's default"))
    ]  # fmt: skip
