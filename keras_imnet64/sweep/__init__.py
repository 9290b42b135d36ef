"""Sweeps: a recipe trained with many values of some keys, and the best of them.

`grid` trains all combinations, `search` lets Optuna choose; both train cells, ordinary runs, with
the package `jobs`. `axes` and `space` say what is varied, `plan` which cells a grid has, `folder`
what is on disk. `results`, `pictures` and `text` show what the cells have reached.
"""
