"""nqbench's own coders."""
