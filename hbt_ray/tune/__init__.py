"""Tune: searches over training configurations, as trials that each are a run of `hbt_ray.train`.

space        what is varied, and which question that answers; the modules of `tune_spaces/` are some
settings     how it is searched: grid, random, Optuna or a population; rungs, budgets
search       the trials together, and how a search goes on after its driver died
trial        one configuration, as a run: training with validation, given step by step
population   a trial of several that learn from each other (PBT), and the schedule that they find
process      that of a trial in Ray Tune, which is told each of its steps
tuner        how Ray Tune is told of all this
limits       how many trials at a time, and the budget
recorder     what happens to trials, written down as it happens
board        what a search has found so far: read from its folder, whoever wrote it
results      tables, curves for machines, and the best configurations; `report` is the page
"""

from hbt_ray.tune.space import Space

__all__ = ["Space"]
