"""What the SDK decides without I/O: frames, streams, text, requests, host access, timings."""
