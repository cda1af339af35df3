"""Training: adapters for any model, and the programs that made the bundled one."""
