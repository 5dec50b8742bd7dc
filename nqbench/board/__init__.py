"""Leaderboards that anyone can add to and anyone can check: submissions, boards, and the site of a board.

A row is not a claim but a file: whoever keeps a board decodes and evaluates it before the row is in.
"""
