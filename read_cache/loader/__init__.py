"""Stored parts to padded batches. No backbone."""
