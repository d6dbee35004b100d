"""The shared library: ten reliability patterns and what surrounds them. `services/chassis/README.md` is its map."""
