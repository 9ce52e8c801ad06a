"""What isolates a sandbox from the machine. Each backend matches `skerry.node.interfaces.Backend` by shape."""
