"""The layer that knows users, disks and commands; it imports everything below and nothing imports it."""
