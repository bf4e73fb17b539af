"""Writing and listing image files: whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from modnas_fast.images.files import (
    Frame,
    ImageError,
    ImageFile,
    check_writable,
    list_images,
    write_image,
)
from tests.image_samples import (
    exif_block,
    image_of,
    read_samples,
    same,
    samples,
)

pytestmark = pytest.mark.usefixtures("nothing_printed")


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".bmp", ".npy"])
def test_any_order_in_memory(tmp_path, suffix):
    """MATLAB's arrays are column by column."""
    columns = np.asfortranarray(samples("uint8", 3))
    write_image(tmp_path / f"a{suffix}", ImageFile((Frame(columns),)))
    np.testing.assert_array_equal(read_samples(tmp_path / f"a{suffix}"), columns)


def test_refusals_before_and_at_writing(tmp_path):
    plain, clear = image_of(samples()), image_of(samples("uint8", 4))
    (tmp_path / "there.png").write_bytes(b"old")
    (tmp_path / "folder.png").mkdir()
    for name, image, part in (
        ("a.gif", plain, "choose from .png"),
        ("a", plain, "choose from .png"),
        ("there.png", plain, "exists already"),
        ("folder.png", plain, "is a folder"),
        ("there.png/a.png", plain, "is no folder"),
        ("a.jpg", clear, "cannot hold alpha"),
        ("a.bmp", clear, "cannot hold alpha"),
        ("a.png", ImageFile(()), "at least one"),
        ("a.webp", image_of(np.zeros((1, 16384), np.uint8)), "16383"),
    ):
        for attempt in (
            lambda name=name, image=image: write_image(tmp_path / name, image),
            lambda name=name, image=image: check_writable(tmp_path / name, False, image),
        ):
            with pytest.raises(ImageError) as caught:
                attempt()
            assert str(caught.value).startswith(f"{tmp_path / name}: ")
            assert part in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"old"
    check_writable(tmp_path / "there.png", overwrite=True)
    check_writable(tmp_path / "new" / "deep" / "a.TIFF")
    assert not (tmp_path / "new").exists()
    write_image(tmp_path / "new" / "deep" / "a.TIFF", plain)
    assert same(read_samples(tmp_path / "new" / "deep" / "a.TIFF"), samples())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("boom")])
@pytest.mark.parametrize("step", ["fsync", "replace", "link", "encode"])
def test_failed_writes_leave_nothing(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a.png"
    if step != "link":
        path.write_bytes(b"old")

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((imagecodecs, "png_encode") if step == "encode" else (os, step)), fail)
        if step == "link":
            patch.setattr(os, "replace", fail)  # what stands in for a link
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ImageError) as caught:
            write_image(path, image_of(samples()), overwrite=step != "link")
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path}: cannot be written (No space left")
    assert [found.name for found in tmp_path.iterdir()] == ([] if step == "link" else ["a.png"])
    assert step == "link" or path.read_bytes() == b"old"


def test_writes_are_flushed_and_named_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, image_of(samples()))
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle)))

    def watched(source, target):
        steps.append("replace")
        assert same(read_samples(source), samples(seed=1))  # whole before it has its name
        assert same(read_samples(target), samples())
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    write_image(path, image_of(samples(seed=1)), overwrite=True)
    assert steps == ["fsync", "replace"]
    assert same(read_samples(path), samples(seed=1))
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask  # a plain file's, not a private temporary's


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    fsync = os.fsync

    def slow(handle):
        path.write_bytes(b"another writer's")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(ImageError, match="exists already"):
        write_image(path, image_of(samples()))
    assert path.read_bytes() == b"another writer's"
    assert len(list(tmp_path.iterdir())) == 1


def test_without_hard_links(tmp_path, monkeypatch):
    def unsupported(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    write_image(tmp_path / "a.png", image_of(samples()))
    assert same(read_samples(tmp_path / "a.png"), samples())
    assert len(list(tmp_path.iterdir())) == 1


def test_threads_read_and_write_side_by_side(tmp_path):
    failures = []

    def work(number):
        try:
            for turn in range(5):
                for suffix in (".png", ".tiff", ".webp"):
                    array = samples("uint8", 3, seed=number * 10 + turn)
                    write_image(tmp_path / f"{number}{suffix}", image_of(array, exif=exif_block()), overwrite=True)
                    assert same(read_samples(tmp_path / f"{number}{suffix}"), array)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Listing


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b.PNG",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub/c.TIFF",
        "sub/deep/d.npy",
        ".secret/e.png",
        "x[1].png",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "in" / "folder.png").mkdir()
    return tmp_path


def listed(*inputs, **options):
    return [relative.as_posix() for _, relative in list_images(inputs, **options)]


def test_listing(tree, monkeypatch):
    root = tree / "in"
    assert listed(root) == ["a.jpg", "b.PNG", "x[1].png"]
    assert listed(root, recursive=True) == ["a.jpg", "b.PNG", "sub/c.TIFF", "sub/deep/d.npy", "x[1].png"]
    assert listed(f"{root}/*.jpg") == ["a.jpg"]
    assert listed(f"{tree}/*/sub/*.TIFF") == ["in/sub/c.TIFF"]
    assert listed(f"{root}/**/*") == ["a.jpg", "b.PNG", "sub/c.TIFF", "sub/deep/d.npy", "x[1].png"]
    assert listed(root / "x[1].png") == ["x[1].png"]  # a name before it is a pattern
    assert listed(root / "notes.txt", root / "a.jpg", root) == ["notes.txt", "a.jpg", "b.PNG", "x[1].png"]
    for path, relative in list_images([root], recursive=True):
        assert path == root / relative
    monkeypatch.chdir(root)
    assert listed("*.jpg", "./a.jpg", ".") == ["a.jpg", "b.PNG", "x[1].png"]


def test_listing_errors(tree):
    for given, part in (
        ("missing.png", "does not exist"),
        ("empty", "holds no image"),
        ("in/*.webp", "holds no image"),
        ("in/missing/*.png", "holds no image"),
    ):
        with pytest.raises(ImageError, match=part) as caught:
            list_images([tree / "in" / "a.jpg", tree / given])
        assert str(caught.value).startswith(str(tree / given))


# Laws


def test_importing_loads_neither_codecs_nor_torch():
    code = "import sys, modnas_fast.images.files; print({'torch', 'imagecodecs', 'tifffile'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
