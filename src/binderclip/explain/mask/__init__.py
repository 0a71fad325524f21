"""Attribution by optimising a mask, in pixels, wavelets or shearlets, and its scores."""
