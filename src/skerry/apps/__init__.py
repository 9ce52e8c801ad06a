"""Compositions: where the parts meet."""
