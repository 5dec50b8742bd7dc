"""What trials leave behind, and what is made of it.

``record`` is one trial's result, ``store`` the SQLite database that a run writes them into (``database`` its tables),
``earlier`` reads records of older versions. ``leaderboard`` ranks configurations, ``methods`` whole methods by their
curves, ``labels`` names both. ``compare`` holds two runs against each other, ``history`` many nights; ``stats`` and
``pchip`` are the statistics behind them. ``exports`` and ``frame`` give records as JSON, CSV and pandas;
``environment`` says on what machine and versions they were made, ``published`` holds papers' own figures.
"""
