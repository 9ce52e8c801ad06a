"""The SDK, asynchronous. tools/generate_sync.py writes the synchronous half from these modules."""
