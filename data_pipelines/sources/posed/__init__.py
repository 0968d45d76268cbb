"""Posed RGB-D scenes of any layout as records: a layout reads one scene, everything else is shared."""
