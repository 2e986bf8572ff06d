"""The networks of the tests, demonstrations and benchmarks: one builder each, by family."""
