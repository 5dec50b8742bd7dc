"""One trial as a chain of stages, and the content-addressed cache between them.

``workbench`` runs trials, whole or a stage at a time, and walks each through the ``chain``, whose makers
are ``preparation`` (load, prune, sense), ``quantization``, ``filing`` (encode, write, decode, check), ``evaluating``.
``keys`` names results by what they are made of and ``fingerprint`` by what code makes them; ``cache`` keeps them.
``docs/one-trial.md`` follows a weight through all of it.
"""
