"""RMN: Relevance Mapping Networks.

Kaushik et al., Understanding Catastrophic Forgetting and Remembering in Continual Learning with Optimal Relevance Mapping, 2021.
"""

from clcore.methods.rmn.hyper import RMNHyper
from clcore.methods.rmn.method import METHOD, RMN

__all__ = ["METHOD", "RMN", "RMNHyper"]
