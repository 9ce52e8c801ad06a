"""The vocabulary: ids, specs, states, exits, errors, limits. It imports nothing of ours and does no I/O."""
