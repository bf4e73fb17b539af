"""N3Net: DnCNNs that hand each other, beside their features, soft nearest neighbours of every patch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modnas_fast.networks.derived import check_batch

WIDTH = 64
FEATURES = 8  # between the DnCNNs
NEIGHBOURS = 7
PATCH, STRIDE = 10, 5
SEARCH = 15  # patches, side of the square in which a patch looks for neighbours
TEMPERATURE_BIAS = 0.1
SMALLEST = PATCH + 2 * STRIDE  # 3×3 patches: each has as many others as the neighbours need
# Patches whose candidates are gathered at once: more are slower to get memory for. Results go into one tensor each: one
# by one they would lie between the gathered ones, and keep gigabytes from being used again.
QUERIES = 32


class LocalCNN(nn.Module):
    """x₁ + C(x): six 3×3 convs, ReLU between them, batch norm after the middle four; x₁ is what of x the output fits.

    `bn1` takes no part, as in the released code, whose files and parameter count have it.
    """

    def __init__(self, channels_in: int, channels_out: int, shared: int) -> None:
        super().__init__()
        self.shared = shared
        self.conv1 = nn.Conv2d(channels_in, WIDTH, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
        self.layer1 = nn.Sequential(*layers)
        self.conv2 = nn.Conv2d(WIDTH, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv2(self.layer1(F.relu(self.conv1(x))))
        return torch.cat((z[:, : self.shared] + x[:, : self.shared], z[:, self.shared :]), dim=1)


class NeuralNeighbours(nn.Module):
    """x beside k = 7 neighbour images minus x, [N, 8, H, W] to [N, 64, H, W].

    10×10 patches (stride 5, zeros around) of an embedding of x are compared with those around them. With distances d_o,
    batch normed, and a temperature τ that a second CNN gives each patch, a patch's j-th neighbour is Σ_o w_o^j·p_o:

        a⁰_o = −d_o/τ,  w^j = softmax(a^{j−1}),  aʲ_o = a^{j−1}_o + log(1 − w^j_o).

    Neighbour patches are put back and overlaps averaged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedcnn, self.tempcnn = _small_cnn(FEATURES), _small_cnn(1)
        self.distance_norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> Tensor:
        embedded, _, _ = _patches(self.embedcnn(x))  # [N, M, 800], M patches
        log_temperature = _patches(self.tempcnn(x))[0].mean(-1, keepdim=True)  # [N, M, 1]
        patches, grid, padding = _patches(x)
        near = _neighbourhoods(*grid, x.device)  # [M, O]
        distances = self._distances(embedded, near)
        normed = self.distance_norm(-distances.flatten(1)[:, None]).view_as(distances)
        logits = normed / (log_temperature + math.log(TEMPERATURE_BIAS)).exp()
        weights = []
        for _ in range(NEIGHBOURS):
            log_weights = F.log_softmax(logits, dim=-1)
            weights.append(log_weights.exp())
            logits = logits + log1mexp(log_weights)
        found = self._aggregate(torch.stack(weights, dim=2), patches, near)  # [N, M, k, 800]
        return torch.cat((x, self._images(found, x, padding) - x.repeat(1, NEIGHBOURS, 1, 1)), dim=1)

    def _distances(self, embedded: Tensor, near: Tensor) -> Tensor:
        """Squared distances of each patch to its candidates, [N, M, O]."""
        squares = embedded.square().sum(-1)  # [N, M]
        distances = embedded.new_empty(len(embedded), *near.shape)
        for begin in range(0, len(near), QUERIES):
            chunk = slice(begin, begin + QUERIES)
            own, others = embedded[:, chunk], near[chunk]
            products = _gather(embedded, others) @ own[..., None]  # [N, m, O, 1]
            distances[:, chunk] = own.square().sum(-1, keepdim=True) + squares[:, others] - 2 * products[..., 0]
        return distances

    def _aggregate(self, weights: Tensor, patches: Tensor, near: Tensor) -> Tensor:
        """Σ_o w_o·p_o, [N, M, k, O] and [N, M, F] to [N, M, k, F]."""
        found = weights.new_empty(*weights.shape[:3], patches.shape[2])
        for begin in range(0, len(near), QUERIES):
            chunk = slice(begin, begin + QUERIES)
            found[:, chunk] = weights[:, chunk] @ _gather(patches, near[chunk])
        return found

    def _images(self, found: Tensor, x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        """Patches [N, M, k, 800] as k images beside each other, [N, 8·k, H, W]."""
        left, right, top, bottom = padding
        height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
        columns = found.flatten(2).transpose(1, 2)  # [N, k·800, M]
        summed = F.fold(columns, (height, width), PATCH, stride=STRIDE)
        counts = F.fold(columns.new_ones(1, PATCH**2, columns.shape[2]), (height, width), PATCH, stride=STRIDE)
        return (summed / counts)[..., top : height - bottom, left : width - right]


class N3Net(nn.Module):
    """x̂ = C₃(N(C₂(N(C₁(y))))): three 6-layer DnCNNs with neural nearest neighbours between them, eight features wide.

    Counts: 705,895 parameters, as MoD-NAS's 706k. MACs at 48×48: 1.62 G in convolutions, as MoD-NAS gives, and 0.08 G
    in distances and weighted sums.

    Source: T. Plötz, S. Roth, "Neural Nearest Neighbors Networks", NeurIPS 2018, and its released code and models.
    """

    def __init__(self, channels_in: int = 1) -> None:
        super().__init__()
        self.channels_in = channels_in
        wide = (1 + NEIGHBOURS) * FEATURES
        self.blocks = nn.ModuleList(
            [
                LocalCNN(channels_in, FEATURES, channels_in),
                LocalCNN(wide, FEATURES, FEATURES),
                LocalCNN(wide, channels_in, channels_in),
            ]
        )
        self.nls = nn.ModuleList([NeuralNeighbours(), NeuralNeighbours()])

    def forward(self, y: Tensor) -> Tensor:
        """Float [N, C, H, W] in [0, 1] to the same shape.

        Sides below 20 are padded (replicate) and cropped. The original needs at least 80: below, a patch has fewer than
        15×15 candidates here.
        """
        check_batch(y, self.channels_in)
        height, width = y.shape[-2:]
        right, bottom = max(0, SMALLEST - width), max(0, SMALLEST - height)
        x = F.pad(y, (0, right, 0, bottom), mode="replicate")
        for block, neighbours in zip(self.blocks, self.nls, strict=False):
            x = neighbours(block(x))
        return self.blocks[-1](x)[..., :height, :width]


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) for x ≤ 0; its gradient near 0 is bounded as if 1e-7 were added inside, as in the released code."""
    near = x > -math.log(2)
    far = torch.log1p(-torch.where(near, -1.0, x).exp())
    gap = -torch.expm1(torch.where(near, x, -1.0))
    bounded = torch.log(gap + 1e-7)
    return torch.where(near, gap.log().detach() + (bounded - bounded.detach()), far)


def _small_cnn(channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (FEATURES, WIDTH):
        layers += [nn.Conv2d(width, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, channels_out, 3, padding=1))


def _patches(x: Tensor) -> tuple[Tensor, tuple[int, int], tuple[int, int, int, int]]:
    """All patches [N, M, C·100], row by row, their grid, and the zeros added around (left, right, top, bottom)."""
    vertical, horizontal = (-(side - PATCH) % STRIDE for side in x.shape[-2:])
    padding = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    x = F.pad(x, padding)
    rows, columns = ((side - PATCH) // STRIDE + 1 for side in x.shape[-2:])
    return F.unfold(x, PATCH, stride=STRIDE).transpose(1, 2).contiguous(), (rows, columns), padding


def _neighbourhoods(rows: int, columns: int, device: torch.device) -> Tensor:
    """For each patch of the grid the indices of the others in its search square, moved inside at borders, [M, O]."""
    high, wide = min(SEARCH, rows), min(SEARCH, columns)
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    top = (row - SEARCH // 2).clamp(0, rows - high)[:, None]
    left = (column - SEARCH // 2).clamp(0, columns - wide)[None, :]
    itself = ((row[:, None] - top) * wide + column[None, :] - left).flatten()[:, None]  # its place in its square
    place = torch.arange(high * wide - 1, device=device)[None, :]
    place = place + (place >= itself).long()
    corner = (top * columns + left).flatten()[:, None]
    return corner + place // wide * columns + place % wide


def _gather(items: Tensor, indices: Tensor) -> Tensor:
    """[N, M, F] at indices [m, O]: [N, m, O, F]."""
    return items.index_select(1, indices.flatten()).unflatten(1, indices.shape)


AUTHORS_KEYS = ((r"^(nls\.\d+\.)n3aggregation\.aggregation\.nnn\.bn\.", r"\1distance_norm."),)
