"""Our own door: HTTP with JSON, and one multiplexed WebSocket. The page is proto/native/socket.md."""
