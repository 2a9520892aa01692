"""Post-hoc transforms: remove the language from an encoder's vectors, without training.

    centering    x - mean of the language's vectors                          questions and passages
    lir          x - its projection on the language's top directions         questions and passages
    shift        x - alpha * (mean of its language - mean of English)        passages only, when they are indexed

A transform is fitted on the texts of a store (`fit_to_store`), saved in one file beside the model (`Transform.save`)
and applied to vectors whose languages are known (`Transform.apply`). The languages of documents are known in an index
by language. The languages of questions must be known too for the first two methods.
"""

from hbt_ray.retrieval.transforms.fit import fit, fit_to_store
from hbt_ray.retrieval.transforms.methods import Centering, Lir, Method, Shift, make_method
from hbt_ray.retrieval.transforms.transform import Transform

__all__ = ["Centering", "Lir", "Method", "Shift", "Transform", "fit", "fit_to_store", "make_method"]
