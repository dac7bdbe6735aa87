"""HNET - continual learning with hypernetworks (von Oswald et al., ICLR 2020, arXiv:1906.00695)."""

from clcore.methods.hnet.method import HNET, HNETHyper

METHOD = HNET

__all__ = ["HNET", "METHOD", "HNETHyper"]
