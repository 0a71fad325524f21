"""An atlas of pictures: places in the plane that keep neighbours, clusters, and words for them."""
