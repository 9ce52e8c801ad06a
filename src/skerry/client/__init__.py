"""The Python SDK: `_core` decides without I/O, `_async` is the source, `_sync` is generated from it."""
