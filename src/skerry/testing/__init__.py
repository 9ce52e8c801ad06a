"""Fakes that behave: a node, a store and a clock in memory. The contract suites run on them as on the real ones."""
