"""One trial as a chain of stages, and the content-addressed cache between them.

``trial`` says what a trial is, ``chain`` lists its stages and all that is derived from them. ``workbench`` runs trials,
whole or a stage at a time. The stages' results are made in ``preparation`` (load, prune, sense), ``quantization``,
``filing`` (encode, write, decode, check) and ``evaluating``. ``keys`` names results by what they are made from and
``fingerprint`` by the code that makes them; ``cache`` keeps them. ``docs/one-trial.md`` follows a weight through it.
"""
