"""Pictures, point-cloud files and a self-contained page for a reconstruction or an evaluation."""
