"""Protocol adapters over the engine: each parses, calls and renders. Doors do not know each other."""
