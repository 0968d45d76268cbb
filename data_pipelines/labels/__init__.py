"""Label files: what a teacher says about the views of a record."""
