"""Learning from a stream that does not say which task an example belongs to, nor how many there are."""

from clcore.streams.learner import StreamLearner, Verdict, Watch
from clcore.streams.probe import probe_stream
from clcore.streams.run import StreamRun
from clcore.streams.sampler import Stream

__all__ = ["Stream", "StreamLearner", "StreamRun", "Verdict", "Watch", "probe_stream"]
