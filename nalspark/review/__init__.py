"""What people say of systems: their labels, read back, compared with each other, and put together."""
