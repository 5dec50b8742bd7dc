"""What the project publishes and is too large for its tree: pages with every figure, and networks that take hours.

``reports/bundle.yaml`` lists each file: its name below ``reports/reference``, its bytes, its SHA-256, and where it is
had; ``bundle`` reads it, ``fetching`` gets files, ``packing`` makes a release of them, ``halving`` keeps networks in
half the bytes.
"""

from nqbench.reference.bundle import Bundle, Entry, bundle_file, read_bundle
from nqbench.reference.fetching import fetch
from nqbench.reference.packing import pack

__all__ = ["Bundle", "Entry", "bundle_file", "fetch", "pack", "read_bundle"]
