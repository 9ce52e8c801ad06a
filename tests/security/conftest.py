from internet import network, world

__all__ = ["network", "world"]
