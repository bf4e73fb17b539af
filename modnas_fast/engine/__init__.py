"""Running trained networks: tiling and denoising."""
