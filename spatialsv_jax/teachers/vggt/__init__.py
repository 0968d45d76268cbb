"""VGGT (arXiv 2503.11651): pictures of one scene to depth, points and cameras."""
