"""One host that runs sandboxes."""
