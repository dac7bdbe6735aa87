"""The core training library: benchmarks, networks, methods, and one learner for all of them.

Imports torch and numpy, and nothing of the sweep around it. A training without a sweep is six lines; see the README.
"""
