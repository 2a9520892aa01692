"""Post-hoc transforms: remove the language from an encoder's vectors, without training.

    centering    x - mean of the language's vectors                          questions and passages
    lir          x - its projection on the language's top directions         questions and passages
    shift        x - alpha * (mean of its language - mean of English)        passages only

A transform is fitted to the texts of a store (`fit_to_store`), saved in one file beside the model (`Transform.save`)
and applied to vectors of known languages (`Transform.apply`). An index keeps the languages of its documents. The first
two methods also need those of the questions, unless `documents_only` is set.
"""

from hbt_ray.retrieval.transforms.fit import fit, fit_to_store
from hbt_ray.retrieval.transforms.methods import Centering, Lir, Method, Shift, make_method
from hbt_ray.retrieval.transforms.transform import Transform

__all__ = ["Centering", "Lir", "Method", "Shift", "Transform", "fit", "fit_to_store", "make_method"]
