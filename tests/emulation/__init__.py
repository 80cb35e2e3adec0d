"""CUDA code without CUDA: what ``packages/accel/csrc/cuda`` needs of it, on the CPU.

``translate`` turns the CUDA sources into C++, ``library`` compiles them together with ``cuda/``,
``cases`` draws problems, and ``compare`` solves each with the emulated kernels and with the CPU
kernels. ``python -m emulation`` does so with all cases; ``faults`` are mistakes that it must find.

It cannot find races between blocks that happen to give the right numbers and that the thread
sanitizer does not see, what depends on the compiler for the GPU (contracted multiplications and
additions, registers, how code is cached), errors of the CUDA runtime and its versions, and speed.
"""
