"""Checkpoints in every format in circulation: read headers first, check everything, then stream the tensors."""
