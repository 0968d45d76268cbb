"""InternVL3: InternViT on square tiles, pixel shuffle, a Qwen2.5 (InternVL3.5: Qwen3) decoder."""
