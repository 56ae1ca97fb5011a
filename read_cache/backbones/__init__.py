"""Frozen models: found, loaded from safetensors, and run. May import transformers."""
