"""Benchmarks: a file for each question, all in one sitting; `make bench ARGS=--help`."""
