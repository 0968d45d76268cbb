"""LLaVA-NeXT-Video: CLIP-L/336, two-layer projector, pooled video frames, any-resolution pictures, Vicuna decoder."""
