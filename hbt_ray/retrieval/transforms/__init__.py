"""Post-hoc fixes: what language says in an encoder's vectors is taken out of them, without training.

    centering    x - mean of the language's vectors                     questions and passages
    lir          x less its shadow on the language's top directions     questions and passages
    shift        x - alpha · mean offset of its language to English     passages alone, when they are indexed

A fix is fitted on the texts of a store (`fit_to_store`), is kept in one file beside the model (`Fix.save`), and is
applied to vectors whose languages are known (`Fix.apply`): those of documents always are in an index by language, those
of questions have to be, for the first two.
"""

from hbt_ray.retrieval.transforms.fitting import fit, fit_to_store
from hbt_ray.retrieval.transforms.methods import Centering, Lir, Method, Shift, make_method
from hbt_ray.retrieval.transforms.transform import Fix

__all__ = ["Centering", "Fix", "Lir", "Method", "Shift", "fit", "fit_to_store", "make_method"]
