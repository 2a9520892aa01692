"""Is the installation sound, and the cluster fit for a run? Every node is asked; what is wrong is told with a remedy.

`nodes` finds the nodes, and an `examiner` on each gathers facts: what is installed (`looking`), what files are seen
(`marks`), how fast the network is (`ranks`). The other modules, one a subject, make findings of them: pure functions.
"""
