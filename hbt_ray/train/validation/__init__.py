"""The dev measure beside training: a fixed pool, its measures, their record, the best checkpoint, when to stop."""
