"""Prompts: from what the user typed to what the UNet is told at each step."""
