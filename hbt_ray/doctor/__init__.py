"""`hbt doctor`: checks of installation, nodes, storage and network before a run.

`run` calls a `probe` on every node; `checks` turns the results into findings, each problem with a remedy.
"""
