"""`modnas-fast denoise` as its users run it: files, folders, globs, failures, interruption."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import modnas_fast
from modnas_fast.cli import main
from modnas_fast.cli.progress import ProgressLine
from modnas_fast.images.camera import camera_noise, draw_camera
from modnas_fast.images.files import Frame, ImageFile, read_image, write_image
from modnas_fast.images.metrics import psnr

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    def make(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)

    return make


def test_one_file_becomes_the_named_file(tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture) -> None:
    pixels = picture(33, 20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert main(["denoise", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--sigma", "25"]) == 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), modnas_fast.denoise(pixels, sigma=25))
    assert "denoised 1 of 1 with modnas-b-t1-gray-s25" in capsys.readouterr().err


def test_a_folder_keeps_structure_depth_alpha_and_pages(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    frames = {
        "gray.png": (picture(12, 9),),
        "deep/rgb16.png": (picture(11, 10, 3, dtype=np.uint16),),
        "rgba.png": (picture(9, 9, 4),),
        "pages.tiff": tuple(picture(10, 14, seed=i) for i in range(3)),
    }
    for name, pages in frames.items():
        write_image(source / name, ImageFile(tuple(Frame.from_samples(page) for page in pages)))
    assert main(["denoise", str(source), "-o", str(target), "--recursive", "--suffix", "_dn"]) == 0
    for name, pages in frames.items():
        path = Path(name)
        written = read_image(target / path.with_name(f"{path.stem}_dn{path.suffix}")).frames
        assert len(written) == len(pages)
        for frame, page in zip(written, pages, strict=True):
            np.testing.assert_array_equal(frame.samples, modnas_fast.denoise(page))
    assert "denoised 4 of 4 with modnas-b-t1-gray and modnas-b-t1-rgb on" in capsys.readouterr().err


def test_a_photo_gets_the_model_for_the_noise_of_cameras(tmp_path: Path, capsys: Capture) -> None:
    clean = read_image(ROOT / "examples" / "chelsea.png").frames[0].colour[:96, :128]
    camera = replace(draw_camera(np.random.default_rng(1)), shot=2e-3, demosaicing="bilinear")
    noisy = {"taken": camera_noise(clean, np.random.default_rng(0), camera)}
    noisy["white"] = np.clip(clean + np.random.default_rng(0).normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
    for name, image in noisy.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    command = ["denoise", str(tmp_path / "*.png"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "denoised 2 of 2 with modnas-b-t1-rgb and modnas-b-t1-rgb-photo on" in said
    assert "(noise estimated: σ = " in said  # of the white one
    for name, image in noisy.items():
        restored = read_image(tmp_path / "out" / f"{name}.png").frames[0].colour
        assert psnr(restored, clean) > psnr(image, clean) + 2


def test_a_gray_model_says_once_that_it_runs_rgb_one_by_one(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    for name, shape in {"a": (8, 9), "b": (8, 9, 3), "c": (9, 8, 3)}.items():
        Image.fromarray(picture(*shape)).save(tmp_path / f"{name}.png")
    gray = ["--model", "modnas-b-t1-gray", "--sigma", "20"]
    assert main(["denoise", str(tmp_path), "-o", str(tmp_path / "out"), *gray]) == 0
    assert capsys.readouterr().err.count("modnas-b-t1-gray is for gray images; it runs red, green and blue one by") == 1


def test_glob_and_other_format(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    for index in range(3):
        Image.fromarray(picture(8, 8, seed=index)).save(tmp_path / f"x{index}.bmp")
    assert main(["denoise", str(tmp_path / "x[01].bmp"), "-o", str(tmp_path / "out"), "--ext", "png"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x0.png", "x1.png"]


def test_broken_files_are_named_and_the_rest_goes_on(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(picture(16, 16)).save(source / "good.png")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:120])
    (source / "empty.jpg").touch()
    (source / "text.png").write_text("hello")
    assert main(["denoise", str(source), "-o", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    for name in ("cut.png", "empty.jpg", "text.png"):
        assert errors.count(f"error: {source / name}:") == 1
    assert "Traceback" not in errors
    assert "denoised 1 of 4" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


def test_existing_outputs_are_kept_unless_overwrite(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    output = tmp_path / "out.png"
    output.write_bytes(b"mine")
    command = ["denoise", str(tmp_path / "a.png"), "-o", str(output)]
    assert main(command) == 1
    assert output.read_bytes() == b"mine"
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert Image.open(output).size == (8, 8)


def test_impossible_outputs_are_refused_before_any_work(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    for name in ("a.png", "a.bmp", "b.png"):
        Image.fromarray(picture(8, 8)).save(tmp_path / name)
    for arguments, message in (
        ([str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "one.png")], "give a folder"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path)], "is an input"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path / "o.gif")], "cannot be written as .gif; choose from .png"),
        ([str(tmp_path / "a.png"), str(tmp_path / "a.bmp"), "-o", str(tmp_path / "o"), "--ext", "tif"], "both become"),
        ([str(tmp_path / "none.png"), "-o", str(tmp_path / "o")], "does not exist"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--sigma", "60"], "no shipped model is for σ = 60"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--tile", "x"], "--tile is 'x'"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--model", "x"], "model 'x'"),
    ):
        assert main(["denoise", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_empty_folder(tmp_path: Path, capsys: Capture) -> None:
    assert main(["denoise", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no image" in capsys.readouterr().err


def test_alpha_to_jpeg_is_an_error_with_nothing_written(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture
) -> None:
    Image.fromarray(picture(8, 8, 4)).save(tmp_path / "a.png")
    assert main(["denoise", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--ext", "jpg"]) == 1
    assert "cannot hold alpha" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failing_save_is_counted(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["denoise", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]) == 1
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_ends_the_image_at_hand(
    tmp_path: Path, picture: Callable[..., np.ndarray], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture(40, 40)).save(tmp_path / "a.png")
    updates: list[float] = []

    def update(line: ProgressLine, share: float, text: str) -> None:
        updates.append(share)
        if len(updates) == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.05)

    monkeypatch.setattr(ProgressLine, "update", update)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes in the background may lack
    try:
        assert main(["denoise", str(tmp_path / "a.png"), "-o", str(tmp_path / "out/"), "--tile", "8"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(updates) < 20  # there are 25 tiles, and several layers in each
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_log_has_no_line_twice(capsys: Capture) -> None:
    progress = ProgressLine()
    for _ in range(2):
        progress.update(1.0, "a.png")
    assert capsys.readouterr().err.count("100%") == 1


def test_as_a_process(tmp_path: Path, picture: Callable[..., np.ndarray]) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "modnas_fast", "denoise", "a.png", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert "Traceback" not in again.stderr


def test_every_gpu_takes_the_next_file(
    tmp_path: Path, picture: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Three devices that stand for GPUs: each waits in its first file until all three have one."""
    import torch

    from modnas_fast.engine import denoiser as module

    pictures = {f"{index}.png": picture(9 + index, 8, seed=index) for index in range(7)}
    expected = {name: modnas_fast.denoise(pixels) for name, pixels in pictures.items()}
    together, places = threading.Barrier(3, timeout=60), {}

    class OnDevice(module.Denoiser):
        def __init__(self, model, device, *others) -> None:
            super().__init__(model, "cpu", *others)
            self.device = device

        def denoise_frame(self, frame, on_tile):
            if self.device not in places:
                places[self.device] = 0
                together.wait()
            places[self.device] += 1
            self.device, device = torch.device("cpu"), self.device
            result = super().denoise_frame(frame, on_tile)
            self.device = device
            return result

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(module, "Denoiser", OnDevice)
    (tmp_path / "in").mkdir()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    assert main(["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cuda:all"]) == 1
    for name, pixels in expected.items():
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / name)), pixels)
    assert sorted(places) == ["cuda:0", "cuda:1", "cuda:2"]
    assert sum(places.values()) == 7
    assert "denoised 7 of 8 with modnas-b-t1-gray on cuda:0, cuda:1, cuda:2" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out2"), "--device", "cuda:all"]) != 0
    assert "torch sees no CUDA device" in capsys.readouterr().err
