"""Searching an architecture: the supernet and its parameters."""

from modnas_fast.search.supernet import SuperNet

__all__ = ["SuperNet"]
