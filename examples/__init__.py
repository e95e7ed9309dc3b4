"""Examples that measure real signals; each is a program: `python -m examples.NAME --help`."""
