"""The layer that knows users, disks and commands; it imports everything below and nothing imports it."""

__version__ = "0.1.0"
