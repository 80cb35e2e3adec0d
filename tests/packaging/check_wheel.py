"""Check a compiled wheel: ``check_wheel.py WHEEL``. Needs binutils, as its compiler does.

One wheel must serve every CPython from 3.10 and every torch: its tag says so, and its symbols hold
it to that.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Of torch, and of the runtime library of CUDA, which is linked statically.
FOREIGN = re.compile(r'\b(c10|at|torch)::|\bcuda|cudart')
SYSTEM = re.compile(r'lib(c|m|stdc\+\+|gcc_s|gomp|pthread|dl|rt)\.so\.\d+|ld-linux.*')


def main(wheel: Path) -> None:
    *_, python, abi, platform = wheel.stem.split('-')
    assert (python, abi) == ('cp310', 'abi3'), f'{wheel.name} is not for every Python from 3.10'
    assert platform != 'any', wheel.name
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (library,) = (name for name in names if Path(name).suffix in {'.so', '.pyd'})
        assert library.endswith('.abi3.so'), library
        path = Path(archive.extract(library, folder))
        symbols = _output('nm', '-DC', path).splitlines()
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', _output('readelf', '-d', path))
        carries_cuda = '.nv_fatbin' in _output('readelf', '-SW', path)
        kernels = _kernels(path) if carries_cuda else 'no CUDA kernels'
        size = path.stat().st_size
    defined = [line.split()[-1] for line in symbols if not line.startswith(' ')]
    assert defined == ['PyInit__C'], f'{library} exports {defined[:5]}'
    foreign = [line for line in symbols if FOREIGN.search(line)]
    assert not foreign, f'{library} has symbols of torch or CUDA: {foreign[:5]}'
    strange = [name for name in needed if not SYSTEM.fullmatch(name)]
    assert not strange, f'{library} needs {strange}'
    print(f'{wheel.name}: {kernels}, {size / 2**20:.1f} MiB, needs {", ".join(needed)}')


def _kernels(library: Path) -> str:
    """Check that CUDA kernels keep everything in registers; needs the cuobjdump of CUDA."""
    if not shutil.which('cuobjdump'):
        return 'CUDA kernels that were not looked at, since cuobjdump is missing'
    for kind, wanted in (('elf', {'80', '90'}), ('ptx', {'90'})):
        found = set(re.findall(r'\.sm_(\d+)\w*\.', _output('cuobjdump', f'--list-{kind}', library)))
        assert found >= wanted, f'{library.name} has {kind} for {found}'
    usage = _output('cuobjdump', '--dump-resource-usage', library)
    kernels = re.findall(r'Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)', usage)
    assert kernels, usage[:500]
    spilling = [name for name, _, *bytes_ in kernels if any(map(int, bytes_))]
    assert not spilling, f'these kernels use local memory: {spilling}'
    most = max(int(registers) for _, registers, *_ in kernels)
    return f'{len(kernels)} CUDA kernels in up to {most} registers'


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == '__main__':
    main(Path(sys.argv[1]))
