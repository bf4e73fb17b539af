"""Networks that are told σ: what they compute, as plain networks at one σ, in files, exports and plug-and-play."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from modnas_fast import Denoiser, DerivedNet, Genotype, ModnasError, denoise, load
from modnas_fast.cli import main
from modnas_fast.engine.engine import Engine, engine_obstacle
from modnas_fast.engine.export import export_program
from modnas_fast.engine.onnx_graph import INPUT, LEVEL, build_onnx
from modnas_fast.images.degradations import Degradation
from modnas_fast.networks import ConditionedNet, WeightsError, plain_net, save_weights
from modnas_fast.networks.plug_and_play import PlugAndPlay
from tests.cases import random_genotype
from tests.parity import assert_parity

SIGMAS = (0.0, 3.0, 25.0, 55.0)


def conditioned_net(stages: int = 1, channels: int = 1, genotype: Genotype | None = None) -> ConditionedNet:
    torch.manual_seed(1)
    net = ConditionedNet(genotype or random_genotype(3), stages, channels).eval()
    with torch.no_grad():
        for stage in net.stages:
            stage.level_weight.normal_(0, 3)
            stage.log_lambda.add_(torch.randn(()))
    net.degradation = Degradation("awgn", (0, 55), between=True)
    return net


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    save_weights(tmp_path / "net.safetensors", conditioned_net())
    return tmp_path / "net.safetensors"


def test_a_constant_map_beside_the_image_and_eq_6() -> None:
    """The definition: the stem sees one more channel, which is s everywhere; δ = 1/(1 + λs²)."""
    net = conditioned_net().double()
    (stage,) = net.stages
    y, s = torch.rand(1, 1, 16, 24, dtype=torch.float64), 40 / 255
    taps = torch.randn(stage.level_weight.numel(), 1, 3, 3, dtype=torch.float64)
    stage.level_weight.data = taps.sum(dim=(1, 2, 3))
    wide = torch.nn.functional.pad(torch.full((1, 1, 16, 24), s, dtype=torch.float64), (1, 1, 1, 1), mode="replicate")
    v = stage.after_stem(stage.stem[0](y) + torch.nn.functional.conv2d(wide, taps))
    delta = 1 / (1 + stage.log_lambda.exp() * s**2)
    torch.testing.assert_close(net(y, 40), delta * y + (1 - delta) * v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("stages", "channels"), [(1, 1), (2, 3)])
def test_at_one_sigma_it_is_a_plain_network(sigma: float, stages: int, channels: int) -> None:
    net = conditioned_net(stages, channels).double()
    y = torch.rand(2, channels, 13, 22, dtype=torch.float64)
    plain = net.at(sigma)
    assert type(plain) is DerivedNet
    assert not plain.training
    torch.testing.assert_close(plain(y), net(y, sigma), rtol=1e-10, atol=1e-10)
    assert plain.degradation == Degradation("awgn", (sigma,))


def test_without_noise_the_image_is_kept() -> None:
    y = torch.rand(1, 1, 9, 17)
    for restored in (conditioned_net(2)(y, 0.0), conditioned_net(2).at(0)(y)):
        torch.testing.assert_close(restored, y, rtol=0, atol=1e-6)


def test_every_image_has_its_own_level() -> None:
    net, y = conditioned_net(2), torch.rand(3, 1, 16, 16)
    together = net(y, torch.tensor([5.0, 25.0, 50.0]))
    for index, sigma in enumerate((5, 25, 50)):
        torch.testing.assert_close(together[index], net(y[index : index + 1], sigma)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModnasError, match="sigma holds 2 levels for 3 images"):
        net(y, torch.tensor([5.0, 25.0]))


def test_gradients_reach_the_level() -> None:
    net = conditioned_net().double()
    y, sigma = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([10.0, 30.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: net(y, s).sum(dim=(1, 2, 3)), sigma.requires_grad_())
    net(y, sigma.detach()).square().sum().backward()
    for name in ("level_weight", "log_lambda"):
        assert net.get_parameter(f"stages.0.{name}").grad.abs().max() > 0


def test_it_starts_from_a_plain_network() -> None:
    """f is that network's; δ starts small, and follows σ."""
    torch.manual_seed(2)
    plain = DerivedNet(random_genotype(3))
    net = ConditionedNet(plain.genotype)
    fresh = net.stages[0].log_lambda.clone()
    net.start_from(plain.state_dict())
    y = torch.rand(1, 1, 16, 8)
    with torch.no_grad():
        v = plain.stages[0].denoiser(y)
    torch.testing.assert_close(net(y, 50), v.detach(), rtol=1e-2, atol=2e-2 * float((y - v).abs().max()))
    torch.testing.assert_close(net(y, 0.1), y, rtol=1e-2, atol=2e-2 * float((y - v).abs().max()))
    assert torch.equal(net.stages[0].log_lambda, fresh)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_levels_that_are_none(sigma: float) -> None:
    with pytest.raises(ModnasError, match="must be a finite number of at least 0"):
        conditioned_net().at(sigma)


def test_files_keep_it(weight_file: Path) -> None:
    net, again = conditioned_net(), load(weight_file)
    assert isinstance(again, ConditionedNet)
    assert again.degradation == net.degradation
    assert str(again.degradation) == "σ = 0 to 55"
    assert all(torch.equal(again.state_dict()[name], value) for name, value in net.state_dict().items())


def test_denoise_takes_any_level(weight_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).random((19, 27), np.float32)
    for sigma in SIGMAS:
        expected = conditioned_net()(torch.from_numpy(image)[None, None], sigma)[0, 0].detach().numpy()
        for model in (weight_file, load(weight_file)):
            np.testing.assert_allclose(denoise(image, sigma, model), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModnasError, match=r"was trained for σ = 0 to 55, not for σ = 70"):
        Denoiser(weight_file, sigma=70)
    np.save(tmp_path / "image.npy", image)
    command = ["denoise", str(tmp_path / "image.npy"), "-o", str(tmp_path / "out.npy"), "--model", str(weight_file)]
    assert main([*command, "--sigma", "12.5"]) == 0
    assert "estimated" not in capsys.readouterr().err
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), denoise(image, 12.5, weight_file), atol=1e-6)


def test_levels_are_estimated(weight_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For every image its own, half a step at a time, and within what the model was trained for."""
    generator = np.random.default_rng(1)
    images = [(0.5 + generator.normal(0, sigma / 255, (64, 64))).astype(np.float32) for sigma in (10, 30, 90)]
    denoiser = Denoiser(weight_file)
    batch = torch.from_numpy(np.stack(images))[:, None]
    restored = denoiser(batch)
    assert denoiser.estimates == pytest.approx([10, 30, 55], abs=2)
    assert denoiser.estimates[2] == 55
    assert all(2 * level == int(2 * level) for level in denoiser.estimates)
    for index, (image, level) in enumerate(zip(images, denoiser.estimates, strict=True)):
        expected = denoise(image, level, weight_file)
        np.testing.assert_allclose(restored[index, 0].numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(denoise(image, model=weight_file), expected, atol=1e-6)
        np.save(tmp_path / f"{index}.npy", image)
    command = ["denoise", *(str(tmp_path / f"{index}.npy") for index in range(3)), "-o", str(tmp_path / "out")]
    assert main([*command, "--model", str(weight_file)]) == 0
    low, high = denoiser.estimates[0], denoiser.estimates[2]
    assert f"(noise estimated: σ = {low:g} to {high:g})" in capsys.readouterr().err
    with pytest.raises(ModnasError, match="give sigma"):
        plain_net(load(weight_file), None, "net")


@pytest.mark.skipif(bool(engine_obstacle()), reason=f"no compiled engine: {engine_obstacle()}")
def test_the_engine_at_a_level(weight_file: Path) -> None:
    y = torch.rand(1, 1, 20, 31)
    exact = copy.deepcopy(conditioned_net()).double()
    engine = Engine.from_pretrained(weight_file, sigma=15)
    assert_parity(
        lambda y: torch.from_numpy(engine(y.numpy())),
        torch.inference_mode()(lambda y: exact(y, 15)),
        y,
        reduction=12 * 25,
        depth=40,
        gradients=False,
    )
    with pytest.raises(ModnasError, match="give sigma"):
        Engine.from_pretrained(weight_file)


@pytest.mark.parametrize(("stages", "channels"), [(1, 1), (2, 3)])
def test_exports_take_the_level_as_an_input(stages: int, channels: int) -> None:
    net = conditioned_net(stages, channels, Genotype.load("modnas-b"))
    model = build_onnx(net, {})
    assert "standard deviation in each image, on the 0-255 scale" in model.graph.input[1].doc_string
    assert "in [0, 1]" in model.graph.input[0].doc_string
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    program = export_program(net).module()
    for size, sigma in (((13, 30), [5.0, 55.0]), ((8, 1), [25.0]), ((24, 24), [0.0])):
        y, levels = torch.rand(len(sigma), channels, *size), torch.tensor(sigma)
        exact = copy.deepcopy(net).double()(y.double(), levels.double())
        onnx = torch.from_numpy(session.run(None, {INPUT: y.numpy(), LEVEL: levels.numpy()})[0])
        for result in (onnx, program(y, levels)):
            assert (result.double() - exact).norm() <= 1e-5 * exact.norm()


def test_plug_and_play() -> None:
    """σ in the image's unit, any channels, one level or one an image; and gradients flow."""
    net = conditioned_net()
    denoiser = PlugAndPlay(net)
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    result = denoiser(x, torch.tensor([0.02, 0.1]))
    expected = [net(x[i : i + 1, c : c + 1], (0.02, 0.1)[i] * 255) for i in range(2) for c in range(3)]
    torch.testing.assert_close(result, torch.cat(expected).reshape(x.shape), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoiser(x, 0.1)[1], result[1], rtol=1e-4, atol=1e-5)
    for same in ([0.02, 0.1], np.array([0.02, 0.1])):
        torch.testing.assert_close(denoiser(x, same), result)
    with pytest.raises(ModnasError, match="sigma holds 3 levels for 2 images"):
        denoiser(x, [0.02, 0.1, 0.2])
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.abs().max() > 0
    colour = PlugAndPlay(conditioned_net(channels=3))
    assert colour(x, torch.tensor(0.05)).shape == x.shape


def test_plug_and_play_needs_a_network_for_every_level(tmp_path: Path) -> None:
    instead = r"plug-and-play needs one for every σ: use modnas-b-t1-gray \(gray\) or modnas-b-t1-rgb \(RGB\)$"
    for name in ("modnas-b-t1-gray-s25", "modnas-ar-t1-gray-jpeg20"):
        with pytest.raises(ModnasError, match=f"^model {name} is not told σ; {instead}"):
            PlugAndPlay(name)
    with pytest.raises(ModnasError, match=f"^model DerivedNet is not told σ; {instead}"):
        PlugAndPlay(conditioned_net().at(25))
    with pytest.raises(WeightsError, match="no such file"):
        PlugAndPlay(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="model is a NoneType"):
        PlugAndPlay(None)


@pytest.mark.parametrize(
    ("sigma", "says"),
    [
        (25, "sigma is 25; σ is in x's unit: divide by 255"),
        (None, "sigma is None; give one number in x's unit"),
        ("0.1", "sigma is '0.1'; give one number in x's unit"),
        (-0.1, "at least 0, in x's unit"),
        (float("nan"), "a finite number"),
    ],
)
def test_plug_and_play_checks_plain_numbers(sigma: object, says: str) -> None:
    with pytest.raises(ModnasError, match=says):
        PlugAndPlay(conditioned_net())(torch.rand(1, 1, 8, 8), sigma)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_plug_and_play_in_other_precisions(dtype: torch.dtype, channels: int) -> None:
    """An algorithm in float64 stays in float64; the network computes in its own precision, and gradients flow back."""
    denoiser = PlugAndPlay(conditioned_net(channels=channels))
    x = torch.rand(2, 3, 16, 16).to(dtype).requires_grad_()
    result = denoiser(x, 0.1)
    assert result.dtype == dtype
    assert torch.equal(result, denoiser(x.float(), 0.1).to(dtype))
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.dtype == dtype
    assert gradient.abs().max() > 0
    exact = PlugAndPlay(conditioned_net(channels=channels)).double()
    assert (exact(x.double(), 0.1) - denoiser(x.double(), 0.1)).abs().max() > 0


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 8, 8, dtype=torch.uint8), np.zeros((1, 1, 8, 8))])
def test_plug_and_play_takes_float_tensors(x: object) -> None:
    with pytest.raises(ModnasError, match=r"^x is .*; give a float tensor \[N, C, H, W\] in \[0, 1\]$"):
        PlugAndPlay(conditioned_net())(x, 0.1)


def half_quadratic_splitting(y: Tensor, mask: Tensor, denoiser: PlugAndPlay) -> Tensor:
    """Inpainting by DPIR's iteration: the data's pixels where they are known, the denoiser's elsewhere."""
    x = y
    for sigma in (0.2, 0.1, 0.05, 0.02):
        x = torch.where(mask, y, denoiser(x, sigma))
    return x


def test_inside_an_iteration() -> None:
    y, mask = torch.rand(1, 1, 24, 24), torch.rand(1, 1, 24, 24) > 0.3
    with torch.inference_mode():
        x = half_quadratic_splitting(y, mask, PlugAndPlay(conditioned_net()))
    assert torch.equal(x[mask], y[mask])
    assert x.isfinite().all()
    assert not torch.equal(x, y)
