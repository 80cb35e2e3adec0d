"""CUDA code without CUDA: what ``packages/accel/csrc/cuda`` needs of it, on the CPU.

``translate`` turns the CUDA sources into C++, ``library`` compiles them together with ``cuda/``,
``cases`` draws problems, and ``compare`` solves each with the emulated kernels and with the CPU
kernels. ``python -m emulation`` does so with all cases; ``faults`` are mistakes that it must find.

``docs/choices.md`` says what this cannot find.
"""
