"""Corrected states to logits, losses and metrics. No backbone."""
