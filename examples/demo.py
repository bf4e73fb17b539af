"""Denoise a noisy photo: PSNR before and after, and a side-by-side PNG.

Usage: python examples/demo.py [OUTPUT_FOLDER]
"""

import sys
import time
from pathlib import Path

import numpy as np

from modnas_fast import Denoiser
from modnas_fast.images.files import Frame, ImageFile, read_image, write_image
from modnas_fast.images.metrics import psnr

here = Path(__file__).parent
output = Path(sys.argv[1] if len(sys.argv) > 1 else "out")

clean = read_image(here / "chelsea.png").frames[0]
noisy = read_image(here / "chelsea-noisy.png").frames[0]
denoiser = Denoiser().for_frame(noisy)
started = time.perf_counter()
restored = denoiser.denoise_frame(noisy)
seconds = time.perf_counter() - started

height, width, _ = noisy.colour.shape
print(f"{denoiser.name} on {denoiser.device}: {width}×{height} RGB in {seconds:.2f} s")
print(f"PSNR noisy    {psnr(noisy.colour, clean.colour):.2f} dB")
print(f"PSNR denoised {psnr(restored.colour, clean.colour):.2f} dB")
side_by_side = np.concatenate([noisy.colour, restored.colour, clean.colour], axis=1)
for name, pixels in (("chelsea-denoised.png", restored.colour), ("chelsea-side-by-side.png", side_by_side)):
    write_image(output / name, ImageFile((Frame(pixels),)), overwrite=True)
    print(output / name)
