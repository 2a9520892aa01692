"""The store: items on a disk or in an object store, read by column, and checks and statistics of a store."""
