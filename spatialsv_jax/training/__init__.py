"""Training: state, step, optimizer, sharding, checkpoints, loop, metric writing."""
