"""Pure steps from a stored record to arrays: decoding, view choice, geometry labels, teacher features."""
