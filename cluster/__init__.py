"""The same sweep on many machines: Ray nodes of our own, clusters that are there, jobs, and files for those who start clusters."""
