# Written by CMake from csrc/_build.py.in.

SYSTEM: str
COMPILER: str
OPENMP: str
CUDA_COMPILER: str
CUDA_ARCHITECTURES: str
SANITIZED: bool
