"""The CUDA sources on the CPU: see emulator.h."""
