"""What training minimises."""

from __future__ import annotations

import copy

import pytest
import torch

from modnas_fast.runs.config import config_from_mapping
from modnas_fast.runs.processes import Processes
from modnas_fast.training import TrainConfig
from modnas_fast.training.loop import _Run
from modnas_fast.training.losses import LOSSES
from tests.test_training import CPU, settings

__all__ = ["settings"]  # a fixture


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        ("mse", lambda error: error.square().mean()),
        ("l1", lambda error: error.abs().mean()),
        ("charbonnier", lambda error: (error.square() + 1e-6).sqrt().mean()),
        ("psnr", lambda error: torch.log10(error.square().mean((1, 2, 3)) + 1e-5).mean() / 10),
    ],
)
def test_each_loss_is_what_its_name_says(settings, tmp_path, loss, value):
    x, y = torch.rand(2, 3, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(LOSSES[loss](x, y), value(x - y), rtol=1e-12, atol=0)
    # The first step starts alike, and follows the gradient of this loss and no other.
    torch.manual_seed(0)
    training = _Run(
        config_from_mapping(TrainConfig, settings | {"output": str(tmp_path), "loss": loss, "clip": 1e9}),
        Processes(0, 1, CPU),
        lambda line: None,
    )
    before = copy.deepcopy(training.net)
    generator = training.sampler.generator.get_state()
    mse = training._step(0.0)
    training.sampler.generator.set_state(generator)
    noisy, clean, _ = training.sampler.sample(settings["batch"])
    error = before(noisy) - clean
    assert float(mse) == pytest.approx(float(error.square().mean().detach()), rel=1e-5)  # PSNR is of the MSE
    expected = torch.autograd.grad(value(error), list(before.parameters()))
    for (name, parameter), gradient in zip(training.net.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6, msg=name)
