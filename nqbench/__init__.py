"""nqbench: how small can a trained network's weights be made, in real bytes, at which accuracy."""

__version__ = "0.1.0"
