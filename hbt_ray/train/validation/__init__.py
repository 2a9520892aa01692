"""Validation beside training: the dev set, its measures, their record, the best checkpoint, early stopping."""
