"""A net as a GTP engine: the protocol, the engine, its clocks, its commands."""
