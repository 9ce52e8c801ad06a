"""How the SDK reaches a server: HTTP requests and one socket for everything that carries bytes."""
