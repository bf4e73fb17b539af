"""Running trained networks: tiling, denoising, evaluation."""
