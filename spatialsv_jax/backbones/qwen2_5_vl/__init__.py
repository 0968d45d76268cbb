"""Qwen2.5-VL: window attention in the vision encoder, 2x2 merger, three-part rotary positions."""
