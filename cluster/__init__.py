"""The same sweep on many machines. For now: ``--address`` of a Ray cluster that is there."""
