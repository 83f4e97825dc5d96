"""All views through one tower."""

import gin

from cl.encoders.tower import Tower
from cl.encoders.towers import Towers


@gin.register("Siamese")
def siamese(tower: Tower, views: int = 2, head: str = "z", joint: bool = True, unit_norm: bool = True) -> Towers:
    """`Towers` with one tower for views 0 to `views` - 1; its head `head` makes the embedding of that name."""
    routes = [(view, "image", head, head) for view in range(views)]
    return Towers({"image": tower}, routes, joint=joint, unit_norm=unit_norm)
