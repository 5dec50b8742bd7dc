"""nqbench's own models."""
