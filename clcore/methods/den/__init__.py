"""DEN: dynamically expandable networks (Yoon et al., 2018)."""

from clcore.methods.den.method import DEN

METHOD = DEN

__all__ = ["DEN", "METHOD"]
