"""LLaVA-OneVision-1.5: RICE-ViT with a class token, 2x2 merger, Qwen3 decoder with q/k norms."""
