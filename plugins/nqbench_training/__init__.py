"""nqbench's own training."""
