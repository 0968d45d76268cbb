"""Hugging Face folders in and out: safetensors files and tables of names."""
