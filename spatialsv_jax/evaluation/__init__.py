"""From a trained model and held-out records to scores: inference, statistics, baselines, one runner."""
