"""SupSup - Supermasks in Superposition (Wortsman et al., NeurIPS 2020, arXiv:2006.14769)."""

from clcore.methods.supsup.hopsupsup import HopSupSup, HopSupSupHyper
from clcore.methods.supsup.method import SupSup, SupSupHyper

METHOD = SupSup

__all__ = ["METHOD", "HopSupSup", "HopSupSupHyper", "SupSup", "SupSupHyper"]
