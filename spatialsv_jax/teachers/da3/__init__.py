"""Depth Anything 3 (arXiv 2511.10647): any-view models and the mono and metric form."""
