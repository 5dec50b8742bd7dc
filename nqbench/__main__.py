"""``python -m nqbench``."""

from nqbench.cli import main

main()
