"""How far an output pixel of one stage can see: interval arithmetic backward through the U-net.

Rows and columns are alike and separable, so all here is about one axis. Every operation maps an output position to
input positions whose first and last never decrease with it; hence the first and last input positions of an interval of
outputs follow from its two ends alone, exactly, although a dilated or strided convolution leaves holes between them.
"""

from __future__ import annotations

from modnas_fast.genotype import SIZE_MULTIPLE, Block, Genotype

# How far to each side a normal operation reads: half-widths of its convolutions, times dilation, added along its depth.
_NORMAL_REACH = {
    "conv_3x3": 1,
    "conv_5x5": 2,
    "sep_conv_3x3": 2,
    "sep_conv_5x5": 4,
    "dil_conv_3x3": 2,
    "dil_conv_5x5": 4,
    "res_block_3x3": 2,
}
_FUSE_REACH = 1
_STEM_REACH = 2


def receptive_field_radius(genotype: Genotype, stages: int = 1) -> int:
    """The farthest, in pixels and to any side, that an output pixel of `stages` stages depends on its input.

    radius = max(p − first, last − p) over the 8 phases p of a cell; first, last = `input_interval(genotype, p, p)`,
    applied once a stage. No pixel sees farther, and some phase sees exactly this far (but for weights that are zero or
    cancel). Phases differ because resampling is not shift invariant.

    As a tile's halo, round it up to a multiple of 8: then the tile's resampling grid is the image's, and every output
    of a tile whose origin and end are multiples of 8 is what the whole image gives.
    """
    radius = 0
    for phase in range(SIZE_MULTIPLE):
        first = last = phase
        for _ in range(stages):
            first, last = input_interval(genotype, first, last)
        radius = max(radius, phase - first, last - phase)
    return radius


def input_interval(genotype: Genotype, first: int, last: int) -> tuple[int, int]:
    """The first and last input positions, along one axis, on which the outputs `first`…`last` of one stage depend.

    Intervals include both ends. Positions count from the image's origin, or a tile's at a multiple of 8; borders are
    ignored, so that results may be negative or lie beyond the image.
    Both branches of the U-net are followed: the encoder features and the path below them.
    """
    interval = (first, last)
    features: list[tuple[int, int]] = []  # what DB4, DB3, DB2 read of EB1, EB2, EB3
    for number, block in reversed(list(enumerate(genotype.decoder))):
        if block.resample is not None:
            interval = _before_up(block.resample.op, interval)
        interval = _before_layers(block, interval)
        if number > 0:
            interval = _widened(interval, _FUSE_REACH)
            features.append(interval)
    for block in reversed(genotype.encoder):
        assert block.resample is not None
        below, feature = _before_down(block.resample.op, interval), features.pop()
        interval = _before_layers(block, (min(below[0], feature[0]), max(below[1], feature[1])))
    return _widened(interval, _STEM_REACH)


def _before_layers(block: Block, interval: tuple[int, int]) -> tuple[int, int]:
    return _widened(interval, sum(_NORMAL_REACH[layer.op] for _, layer in block.live_layers()))


def _before_down(op: str, interval: tuple[int, int]) -> tuple[int, int]:
    first, last = 2 * interval[0], 2 * interval[1]
    if op == "conv_3x3":
        return first - 1, last + 1
    return first, last if op == "nearest" else last + 1  # nearest takes the even one; area and bilinear average both


def _before_up(op: str, interval: tuple[int, int]) -> tuple[int, int]:
    first, last = interval
    if op == "bilinear":  # even positions lie a quarter before their source, odd ones a quarter after
        return (first - 1) // 2, (last + 1) // 2
    if op == "deconv_3x3":  # even positions are hit by the middle tap alone, odd ones by both outer taps
        return first // 2, (last + 1) // 2
    if op == "sub_pixel":
        return _widened((first // 2, last // 2), 1)
    return first // 2, last // 2  # nearest, and area, which equals it at ×2


def _widened(interval: tuple[int, int], reach: int) -> tuple[int, int]:
    return interval[0] - reach, interval[1] + reach
