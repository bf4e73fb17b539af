"""The model-guided step."""

from __future__ import annotations

import torch

from modnas_fast.reference import relax_ref
from tests.parity import assert_parity


def by_definition(v, y, delta):
    weight = 1 / (1 + torch.exp(-delta))
    return weight * y + (1 - weight) * v


def test_relax_against_its_definition() -> None:
    torch.manual_seed(0)
    v, y, delta = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4), torch.tensor(0.7)
    assert_parity(relax_ref, by_definition, *(x.requires_grad_() for x in (v, y, delta)), reduction=120, depth=4)


def test_the_image_keeps_its_precision() -> None:
    assert relax_ref(torch.rand(1, 1, 2, 2).bfloat16(), torch.rand(1, 1, 2, 2), torch.zeros(())).dtype == torch.float32
