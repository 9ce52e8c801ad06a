"""What every operation means. The engine does no I/O of its own but through the interfaces that it states."""
