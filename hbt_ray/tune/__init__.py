"""Hyper-parameter search with Ray Tune; every trial is a run of `hbt_ray.train`.

space            what is varied; the modules of `tune_spaces/` are examples
config           how it is searched: grid, random, Optuna or PBT; rungs, budgets
search           the whole search, and how it continues after its driver died
tuner            search algorithm, scheduler, budget and restoring for Ray Tune
trainable        one trial: a run whose validations are reported to Ray Tune
pbt              lineages of a population, and the schedule that they amount to
recorder         writes what happens to trials into the search's folder
state            reads it again: trials, Pareto front, seed groups
results          tables, curves, the best configurations; the page is `hbt_ray.report.search_page`
critical_batch   the critical batch size of a search over batch sizes
"""

from hbt_ray.tune.space import Space

__all__ = ["Space"]
