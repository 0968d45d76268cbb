"""Loss terms as sums and counts. `objective.evaluate` joins them; `dense` holds the 3D terms."""
