"""`modnas-fast evaluate` and the evaluation protocol."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

import modnas_fast
from modnas_fast.cli import main
from modnas_fast.images.camera import camera_noise
from modnas_fast.images.evaluation import EvaluationSet, evaluate, mean_scores
from modnas_fast.networks.baselines import BASELINES

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows, columns = np.mgrid[0:40, 0:52]
    gray = np.clip(120 + 70 * np.sin(rows / 6) + 50 * np.cos(columns / 8), 0, 255).astype(np.uint8)
    data = tmp_path / "set"
    data.mkdir()
    Image.fromarray(gray).save(data / "a.png")
    Image.fromarray(np.stack([gray, gray[::-1], 255 - gray], 2)).save(data / "b.png")
    return data


def test_json_has_the_protocols_numbers(folder: Path, capsys: Capture) -> None:
    assert main(["evaluate", "--data", str(folder), "--sigma", "25", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["sigma"]) == ("modnas-b-t1-gray-s25", 25)
    assert [image["name"] for image in document["images"]] == ["a.png", "b.png"]
    # The protocol once more, by hand: seed 0 for every image, no clipping, output rounded to uint8.
    expected = []
    for name in ("a.png", "b.png"):
        clean = np.array(Image.open(folder / name).convert("L"))
        np.random.seed(0)  # noqa: NPY002 - the field's protocol is the legacy stream
        noisy = clean / 255.0 + np.random.randn(*clean.shape) * (25 / 255)  # noqa: NPY002
        with torch.inference_mode():
            restored = modnas_fast.load("modnas-b-t1-gray-s25")(torch.from_numpy(noisy).float()[None, None])[0, 0]
        output = np.clip(np.rint(restored.numpy() * 255), 0, 255).astype(np.uint8)
        expected.append(peak_signal_noise_ratio(clean, output))
    np.testing.assert_allclose([image["psnr"] for image in document["images"]], expected, atol=1e-3)
    np.testing.assert_allclose(document["mean"]["psnr"], np.mean(expected), atol=1e-3)
    assert 0 < document["mean"]["ssim"] < 1
    assert all(image["ms"] > 0 for image in document["images"])


def test_csv_and_table_and_saved_images(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["evaluate", "--data", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == ["a.png", "b.png"]
    saved = tmp_path / "saved"
    assert main(["evaluate", "--data", str(folder), "--save-images", str(saved)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["image", "a.png", "b.png", "mean"]
    clean = np.array(Image.open(folder / "a.png"))
    assert float(rows[0]["psnr"]) == pytest.approx(
        peak_signal_noise_ratio(clean, np.array(Image.open(saved / "a.png"))), abs=1e-3
    )


def test_rgb_and_jpeg(folder: Path, capsys: Capture) -> None:
    (folder / "a.png").unlink()
    assert main(["evaluate", "--data", str(folder), "--rgb", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "modnas-b-t1-rgb"
    rgb = document["mean"]["psnr"]
    gray = ["--model", "modnas-b-t1-gray"]
    assert main(["evaluate", "--data", str(folder), "--rgb", *gray, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"]["psnr"] != rgb
    assert main(["evaluate", "--data", str(folder), "--jpeg", "20", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["model"], document["sigma"], document["jpeg"]) == ("modnas-ar-t1-gray-jpeg20", None, 20)
    assert "was trained for" not in captured.err
    assert document["mean"]["psnr"] != rgb
    for others, model in ((["--jpeg", "50"], "modnas-b-t1-gray"), (["--jpeg", "20", "--rgb"], "modnas-b-t1-rgb")):
        assert main(["evaluate", "--data", str(folder), *others, "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["model"] == model
        assert f"{model} was trained for σ = 0 to 55" in captured.err


def test_the_noise_of_cameras(folder: Path, capsys: Capture) -> None:
    (folder / "a.png").unlink()
    assert main(["evaluate", "--data", str(folder), "--camera", "--rgb", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["model"], document["sigma"], document["camera"]) == ("modnas-b-t1-rgb-photo", None, True)
    assert "was trained for" not in captured.err
    assert main(["evaluate", "--data", str(folder), "--camera", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "modnas-b-t1-gray-photo"
    (image,) = EvaluationSet(folder, 3, "camera")
    (score,) = evaluate(lambda y: y, [image], "camera", 0.0)
    np.testing.assert_array_equal(score.output, camera_noise(image[1], np.random.default_rng(0)))


def test_json_without_noise_is_json(tmp_path: Path, capsys: Capture) -> None:
    """Where nothing is changed PSNR is infinite, and an image below 11×11 pixels has no SSIM: null, both."""
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "flat.png")
    assert main(["evaluate", "--data", str(tmp_path), "--sigma", "0", "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert document["mean"] == {"psnr": None, "ssim": None}
    assert (document["images"][0]["psnr"], document["images"][0]["ssim"]) == (None, None)


def test_identity_scores_the_noise_itself(folder: Path) -> None:
    scores = list(evaluate(lambda y: y, EvaluationSet(folder, 1, "awgn"), "awgn", 15))
    psnr, _ = mean_scores(scores)
    assert psnr == pytest.approx(20 * np.log10(255 / 15), abs=0.3)


def test_jpeg_identity_scores_the_compression(folder: Path) -> None:
    for name, clean in EvaluationSet(folder, 1, "jpeg"):
        coded = io.BytesIO()
        Image.fromarray(clean[..., 0]).save(coded, "JPEG", quality=20)
        expected = peak_signal_noise_ratio(clean[..., 0], np.array(Image.open(coded)))
        (score,) = evaluate(lambda y: y, [(name, clean)], "jpeg", 20)
        assert score.psnr == pytest.approx(expected, abs=1e-6)


def test_small_images_have_no_ssim() -> None:
    (score,) = evaluate(lambda y: y, [("tiny", np.zeros((4, 30, 1), np.uint8))], "awgn", 25)
    assert np.isnan(score.ssim)


def test_bad_sets_are_refused(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["evaluate", "--data", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(modnas_fast.ModnasError, match="a gray image"):
        list(EvaluationSet(folder, 3, "awgn"))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "deep.png")
    with pytest.raises(modnas_fast.ModnasError, match="must have 8 bit"):
        list(EvaluationSet(folder, 1, "awgn"))
    assert main(["evaluate", "--data", str(folder), "--jpeg", "0"]) == 2
    assert "between 1 and 95" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "rgb"), [("dncnn", False), ("ffdnet", False), ("ffdnet", True), ("ecae", True)])
def test_baselines_are_scored_with_their_weights(
    name: str, rgb: bool, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    torch.manual_seed(0)
    (folder / "a.png").unlink()  # gray
    net, weights = BASELINES[name].build(3 if rgb else 1).eval(), tmp_path / "weights.pth"
    torch.save(net.state_dict(), weights)
    arguments = ["evaluate", "--data", str(folder), "--sigma", "50", "--json", *(["--rgb"] if rgb else [])]
    assert main([*arguments, "--baseline", name, "--weights", str(weights)]) == 0
    document = json.loads(capsys.readouterr().out)
    images = EvaluationSet(folder, 3 if rgb else 1, "awgn")
    levels = (50.0,) if name == "ffdnet" else ()
    expected = [score.psnr for score in evaluate(lambda y: net(y, *levels), images, "awgn", 50)]
    np.testing.assert_allclose([image["psnr"] for image in document["images"]], expected, atol=0.01)
    assert document["model"] == f"{name} {weights}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--baseline", "drunet"], "drunet needs a file of weights"),
        (["--baseline", "bm3d", "--weights", "x"], "bm3d has no weights"),
        (["--baseline", "bm3d", "--jpeg", "20"], "bm3d needs a noise level"),
        (["--baseline", "dncn"], "unknown baseline 'dncn'"),
        (["--baseline", "dncnn", "--weights", "x", "--x8"], "leave --model, --tile and --x8 out"),
        (["--weights", "x"], "--weights belongs to --baseline"),
    ],
)
def test_baselines_refuse_what_they_cannot_do(arguments: list[str], says: str, folder: Path, capsys: Capture) -> None:
    assert main(["evaluate", "--data", str(folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
