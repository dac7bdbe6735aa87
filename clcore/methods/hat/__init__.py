"""HAT - Hard Attention to the Task (Serra et al., ICML 2018, arXiv:1801.01423)."""

from clcore.methods.hat.method import HAT, HATHyper

METHOD = HAT

__all__ = ["HAT", "METHOD", "HATHyper"]
