"""The frame codec and the messages of node, agent and clients. It imports nothing of ours and does no I/O."""
