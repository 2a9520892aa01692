"""The configurations of `hbt demo`, which are good to start from: `store.yaml` and `train.yaml`."""
