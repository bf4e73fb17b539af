"""Triton kernels, one file an op; installed as `modnas_fast.kernels`. Importing the package loads none of them."""
