"""`read-cache bench`: micro-benchmarks of both stages, each against the plain thing that bounds it."""
