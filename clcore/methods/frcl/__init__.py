"""FRCL - Functional Regularisation for Continual Learning with Gaussian Processes (Titsias et al., ICLR 2020, arXiv:1901.11356)."""

from clcore.methods.frcl.method import FRCL, FRCLHyper

METHOD = FRCL

__all__ = ["FRCL", "METHOD", "FRCLHyper"]
