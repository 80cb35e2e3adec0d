"""Mistakes that the emulation must find; each changes one place of ``csrc/cuda``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from emulation.translate import CSRC

DIFFERENT = 'DIFFERENT'
RACE = 'data race'


@dataclass(frozen=True)
class Fault:
    """A mistake, and what finds it.

    Attributes:
        what: The mistake.
        file: In ``csrc/cuda``.
        right: Text that is there once.
        wrong: What stands there instead.
        found: Part of the report that finds it.
        sanitizers: The sanitizers that are needed to find it.
        rule: The rule whose kernels make it.
    """

    what: str
    file: str
    right: str
    wrong: str
    found: str = DIFFERENT
    sanitizers: str = ''
    rule: str = 'adam'

    def plant(self, folder: Path) -> None:
        """Write sources with the mistake into a new folder.

        Raises:
            ValueError: the sources have changed, so that the mistake has no place in them.
        """
        shutil.copytree(CSRC, folder)
        path = folder / 'cuda' / self.file
        text = path.read_text()
        if text.count(self.right) != 1:
            raise ValueError(f'{self.file} has {text.count(self.right)} times: {self.right}')
        path.write_text(text.replace(self.right, self.wrong))


FAULTS = [
    Fault(
        'scalars are read before they are there',
        'kernel.cuh',
        '      }\n      __syncthreads();\n',
        '      }\n',
    ),
    Fault(
        'scalars are replaced while they are read',
        'kernel.cuh',
        'if (index != prepared) {\n      __syncthreads();\n',
        'if (index != prepared) {\n',
    ),
    Fault(
        'sums of warps are read before they are there',
        'kernel.cuh',
        '__syncthreads();\n  double sum = 0;',
        'double sum = 0;',
    ),
    Fault(
        'sums of warps are replaced while they are read',
        'kernel.cuh',
        '__syncthreads();\n  return sum;',
        'return sum;',
        found=RACE,
        sanitizers='thread',
    ),
    Fault(
        'a barrier that some threads do not reach',
        'kernel.cuh',
        '__syncthreads();\n  double sum = 0;',
        'if (value != 0) __syncthreads();\n  double sum = 0;',
        found='some threads of a block wait',
    ),
    Fault(
        'shared memory that nobody has written',
        'kernel.cuh',
        'if (threadIdx.x % 32 == 0) warps',
        'if (threadIdx.x % 64 == 0) warps',
    ),
    Fault(
        'two blocks write one sum',
        'kernel.cuh',
        'scalars.partials[chunk] = total',
        'scalars.partials[chunk / 2] = total',
        found=RACE,
        sanitizers='thread',
    ),
    Fault('no tail', 'kernel.cuh', 'tail = packs * V;', 'tail = size;'),
    Fault(
        'one element too many',
        'kernel.cuh',
        'i < size; i += kThreads',
        'i <= size; i += kThreads',
        found='heap-buffer-overflow',
        sanitizers='address,undefined',
    ),
    Fault(
        'vectors at addresses for which they are too long',
        'kernel.cuh',
        'reinterpret_cast<uintptr_t>(out[r]) % 16',
        'reinterpret_cast<uintptr_t>(out[r]) % 8',
        found='misaligned address',
        sanitizers='address,undefined',
    ),
    Fault(
        'an absent input is read',
        'kernel.cuh',
        'x[r] = in[r] ? in[r][i] : M(0)',
        'x[r] = in[r][i]',
        found='null pointer',
        sanitizers='address,undefined',
    ),
    Fault(
        'an absent output is written',
        'kernel.cuh',
        'if (out[r]) out[r][i] = y[r]',
        'out[r][i] = y[r]',
        found='null pointer',
        sanitizers='address,undefined',
    ),
    Fault(
        'the wrong tensor of a chunk', 'kernel.cuh', 'first_chunk <= chunk', 'first_chunk < chunk'
    ),
    Fault(
        'one chunk for each block', 'kernel.cuh', 'chunk += gridDim.x', 'chunk = arguments.chunks'
    ),
    Fault(
        'the step count of the wrong tensor',
        'kernel.cuh',
        'scalars.steps[tensor.position]',
        'scalars.steps[index]',
    ),
    Fault(
        'the number of the wrong tensor',
        'kernel.cuh',
        'scalars.numbers[tensor.position]',
        'scalars.numbers[index]',
        rule='nadam',
    ),
    Fault(
        'the learning rate of the wrong tensor',
        'launch.cuh',
        'tensor.lr_index = int32_t(int64_t(i) * problem.lr_stride)',
        'tensor.lr_index = int32_t((arguments.count - 1) * problem.lr_stride)',
    ),
    Fault(
        'a second launch overwrites the sums of the first',
        'launch.cuh',
        'if (partials) arguments.scalars.partials += arguments.chunks;',
        '',
    ),
    Fault(
        'sums that belong to the learning rate before',
        'kernel.cuh',
        'i < ranges.first[blockIdx.x + 1]',
        'i <= ranges.first[blockIdx.x + 1]',
        found='heap-buffer-overflow',
        sanitizers='address,undefined',
    ),
    Fault(
        'a second launch takes the learning rates of the first',
        'launch.cuh',
        'lr_grads + begin',
        'lr_grads',
    ),
    Fault(
        'more arguments than CUDA takes',
        'arguments.h',
        'kArgumentBytes = 32764',
        'kArgumentBytes = 40000',
        found='launch: invalid argument',
    ),
    Fault(
        'another stream',
        'launch.cuh',
        '<<<here, kThreads, 0, stream>>>',
        '<<<here, kThreads, 0, nullptr>>>',
        found='that nobody asked for',
    ),
    Fault(
        'another device',
        'driver.cu',
        'uintptr_t scratch) {\n  const OnDevice guard(device);\n',
        'uintptr_t scratch) {\n  (void)device;\n',
        found='that nobody asked for',
    ),
]
