"""Pictures through one tower, texts through another."""

import gin

from cl.encoders.tower import Tower
from cl.encoders.towers import Towers


@gin.register("Dual")
def dual(image: Tower, text: Tower, head: str = "z", unit_norm: bool = True) -> Towers:
    """`Towers` for pairs: view 0 is the picture, view 1 the text, both rows of the embedding `head`."""
    routes = [(0, "image", head, head), (1, "text", head, head)]
    return Towers({"image": image, "text": text}, routes, unit_norm=unit_norm)
