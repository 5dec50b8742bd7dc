"""The command ``nqbench``; see ``nqbench.cli.frame``."""

from nqbench.cli.frame import INTERRUPTED, OK, REGRESSION, TRIALS_FAILED, WRONG_USE, cli, invoke, main

__all__ = ["INTERRUPTED", "OK", "REGRESSION", "TRIALS_FAILED", "WRONG_USE", "cli", "invoke", "main"]
