"""`hbt doctor`: are installation, nodes, storage and network fit for a run?

`run` asks a `probe` on every node; `checks` turn the answers into findings, each problem with a remedy.
"""
