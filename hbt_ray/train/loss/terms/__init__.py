"""Terms against language bias and for distillation, each added to InfoNCE with a weight of its own.

    lakda        a question ranks the batch's passages alike in two languages              needs question versions
    alignment    a passage has the same vector in two languages                            needs passage versions
    erasure      vectors say nothing of the language                                       needs mixed languages
    imitation    vectors are where an English teacher puts the English text                needs a teacher
    distillation a row's candidates are weighed as a teacher weighed the English ones      needs mined scores

A term is a configuration and the function at once. Rows that lack what it needs are left out; its mean is over the rows
of all ranks that have it.
"""

from hbt_ray.train.loss.terms.alignment import Alignment
from hbt_ray.train.loss.terms.distillation import Distillation
from hbt_ray.train.loss.terms.erasure import Erasure
from hbt_ray.train.loss.terms.imitation import Imitation
from hbt_ray.train.loss.terms.lakda import Lakda

__all__ = ["Alignment", "Distillation", "Erasure", "Imitation", "Lakda"]
