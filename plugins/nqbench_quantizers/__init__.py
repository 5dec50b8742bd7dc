"""nqbench's own quantizers."""
