"""Rows in one SQLite file in the data folder."""
