"""Depthwise convolution, and gradients of it that do not take ten times as long.

oneDNN has a fast weight gradient for 3×3 kernels of dilation 1 only; at 48 channels 5×5 or dilated ones take 20
(float32) to 60 times (bfloat16) as long, and in bfloat16 a dilated one can be wrong altogether. Its data gradients
are uneven too. So:

* the data gradient is the forward convolution with the kernel turned around;
* on the CPU the weight gradient of a large image becomes 3×3 ones of dilation 1, on views of one zero-bordered copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LARGE = 32 * 32  # pixels of an image


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Depthwise convolution, zero-padded to the same size: x [N, C, H, W], weight [C, 1, k, k], k odd; no bias."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])


def depthwise_dx(dy: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient of `depthwise` in x, [N, C, H, W], from that in its output."""
    return depthwise(dy, weight.flip(2, 3), dilation)


def depthwise_dweight(x: Tensor, dy: Tensor, kernel: int, dilation: int = 1) -> Tensor:
    """Gradient of `depthwise` in its weight, [C, 1, kernel, kernel], kernel 3 or 5, from x and that in its output."""
    if x.device.type == "cpu" and (kernel, dilation) != (3, 1) and _tiles_pay(x):
        return _dweight_by_tiles(x, dy, kernel, dilation)
    return _dweight(x, dy, kernel, dilation)


def _tiles_pay(x: Tensor) -> bool:
    """Whether the copies are the lesser evil: on large images, and in bfloat16 on any, for a right result."""
    return x.dtype == torch.bfloat16 or x.shape[-2] * x.shape[-1] >= _LARGE


def _dweight(x: Tensor, dy: Tensor, kernel: int, dilation: int) -> Tensor:
    channels, padding = x.shape[1], dilation * (kernel // 2)
    weight = x.new_empty(channels, 1, kernel, kernel)
    square = [padding, padding], [dilation, dilation]
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, [1, 1], *square, False, [0, 0], channels, [False, True, False]
    )[1]


def _dweight_by_tiles(x: Tensor, dy: Tensor, kernel: int, dilation: int) -> Tensor:
    """The same by 3×3 weight gradients of dilation 1.

    x and dy lie, channels last, in equal grids with k // 2 dilated steps of zeros between images: one above and to
    the left, the others below and to the right, where the next row or image begins with its own. A grid seen as [N,
    rows / d, columns, d·C] has the d × d phases of a dilated kernel apart, row phases side by side and column phases
    as channels, so that taps are neighbours. Four 3×3 tiles make a 5×5 kernel: shifting x by a step is an offset into
    its buffer.
    """
    N, C, H, W = x.shape
    reach = dilation * (kernel // 2)
    rows, columns = (-(-(size + reach) // dilation) * dilation for size in (H, W))
    step_down, step_right = dilation * columns, dilation  # one dilated step, in pixels of the flat grid
    slack = step_down + step_right
    pixels = N * rows * columns

    def grid(image: Tensor) -> Tensor:
        flat = image.new_empty(slack + pixels + slack, C)
        inside = flat[slack : slack + pixels].view(N, rows, columns, C)
        for border in (flat[:slack], flat[slack + pixels :], inside[:, :dilation], inside[:, dilation + H :]):
            border.zero_()
        inside[:, dilation : dilation + H, :dilation] = 0
        inside[:, dilation : dilation + H, dilation + W :] = 0
        inside[:, dilation : dilation + H, dilation : dilation + W] = image.permute(0, 2, 3, 1)
        return flat

    def phases(flat: Tensor, shift: int) -> Tensor:
        view = flat[slack + shift : slack + shift + pixels].view(N, rows // dilation, columns, dilation * C)
        return view.permute(0, 3, 1, 2)

    grid_x, dy_phases = grid(x), phases(grid(dy), 0)
    shifts = (0,) if kernel == 3 else (-1, 1)
    tiles = [
        [_dweight(phases(grid_x, down * step_down + right * step_right), dy_phases, 3, 1) for right in shifts]
        for down in shifts
    ]
    # The tiles of a 5×5 kernel overlap in its middle row and column.
    bands = [torch.cat([tile if i == 0 else tile[..., 1:] for i, tile in enumerate(band)], dim=3) for band in tiles]
    dweight = torch.cat([band if i == 0 else band[:, :, 1:] for i, band in enumerate(bands)], dim=2)
    return dweight.unflatten(0, (dilation, C)).sum(0)
