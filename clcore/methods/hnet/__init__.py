"""HNET - continual learning with hypernetworks (von Oswald et al., ICLR 2020, arXiv:1906.00695)."""
