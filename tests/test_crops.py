"""The strips of parts that stand side by side."""

from __future__ import annotations

import numpy as np

from benchmarks import crops


def test_a_strip_holds_the_parts_in_order_enlarged() -> None:
    images = [np.full((200, 300, 3), value, np.uint8) for value in (10, 20, 30)]
    images[1][50, 60] = 99
    found = crops.strip(images, top=50, left=60)
    side = crops._SIDE * crops._TIMES
    assert found.shape == (side, 3 * side + 2 * crops._GAP, 3)
    starts = [index * (side + crops._GAP) for index in range(3)]
    assert [int(found[-1, start, 0]) for start in starts] == [10, 20, 30]
    assert (found[: crops._TIMES, starts[1] : starts[1] + crops._TIMES] == 99).all()
    assert (found[:, side : side + crops._GAP] == 255).all()
