"""Studies: questions that take several sweeps, and their reports. One idea a file; ``sweeps/study.py`` is the command."""
