"""Images as signals: multiscale transforms with exact inverses, and edges.

A transform turns pictures (..., H, W) of any size into coefficients and back, without a loss and differentiably, so
that masks, penalties and noise can live where edges and textures are sparse.
"""

from __future__ import annotations

from binderclip.vision.edges import sobel
from binderclip.vision.representation import PixelTransform, Representation
from binderclip.vision.shearlets import ShearletTransform
from binderclip.vision.wavelets import WaveletTransform, daubechies

__all__ = [
    "PixelTransform",
    "Representation",
    "ShearletTransform",
    "WaveletTransform",
    "daubechies",
    "sobel",
]
