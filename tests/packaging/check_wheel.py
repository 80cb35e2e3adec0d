"""Check the compiled wheel in a folder: ``check_wheel.py FOLDER``. Needs binutils, as compilers do.

One wheel must serve every CPython from 3.10, every torch, and every Linux that torch serves: its
tags say so, and its symbols hold it to that.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

# Of torch, and of the runtime library of CUDA, which is linked statically.
FOREIGN = re.compile(r'\b(c10|at|torch)::|\bcuda|cudart')
SYSTEM = re.compile(r'lib(c|m|stdc\+\+|gcc_s|gomp|pthread|dl|rt)\.so\.\d+|ld-linux.*')


# The glibc of the oldest system for which torch has wheels.
OLDEST = (2, 28)


def main(folder: Path) -> None:
    (wheel,) = folder.glob('*.whl')
    *_, python, abi, platform = wheel.stem.split('-')
    assert (python, abi) == ('cp310', 'abi3'), f'{wheel.name} is not for every Python from 3.10'
    systems = [(*map(int, tag),) for tag in re.findall(r'manylinux_(\d+)_(\d+)_', platform)]
    assert systems and min(systems) <= OLDEST, (
        f'{wheel.name} needs a newer Linux than torch does. `auditwheel show` names the symbols '
        'that are too new. Without them builds the session cibuildwheel, in an older container'
    )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (library,) = (name for name in names if '.so' in Path(name).suffixes)
        assert library.endswith('.abi3.so'), library
        path = Path(archive.extract(library, folder))
        symbols = _output('nm', '-DC', path).splitlines()
        dynamic = _output('readelf', '-dW', path)
        needed = re.findall(r'\(NEEDED\).*\[(.*)\]', dynamic)
        kernels = _cuda(path, archive.read(str(Path(library).with_name('_build.py'))).decode())
    defined = [line.split()[-1] for line in symbols if not line.startswith(' ')]
    assert defined == ['PyInit__C'], f'{library} exports {defined[:5]}'
    foreign = [line for line in symbols if FOREIGN.search(line)]
    assert not foreign, f'{library} has symbols of torch or CUDA: {foreign[:5]}'
    strange = [name for name in needed if not SYSTEM.fullmatch(name)]
    assert not strange, f'{library} needs {strange}'
    # It would be the path of a library that came with the wheel: a second OpenMP, beside torch's.
    assert not re.search('R(UN)?PATH', dynamic), dynamic
    print(f'{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {kernels}')
    print(f'  needs {", ".join(needed)}; its newest symbols: {", ".join(_newest(symbols))}')


def _newest(symbols: list[str]) -> list[str]:
    """Return the newest version that is needed of every library that has versions."""
    newest: dict[str, tuple[int, ...]] = {}
    for name, version in re.findall(r'@(\w+)_([\d.]+)$', '\n'.join(symbols), flags=re.MULTILINE):
        newest[name] = max(newest.get(name, ()), (*map(int, version.split('.')),))
    return [f'{name}_{".".join(map(str, version))}' for name, version in sorted(newest.items())]


def _cuda(library: Path, description: str) -> str:
    """Check the CUDA kernels against _build.py: code for each GPU, everything in registers."""
    section = re.search(r'\.nv_fatbin +\w+ +\w+ (\w+) (\w+)', _output('readelf', '-SW', library))
    (listed,) = re.findall(r"^CUDA_ARCHITECTURES = '(.*)'$", description, flags=re.MULTILINE)
    assert bool(section) == bool(listed), f'built for {listed!r}, but the kernels: {section}'
    if section is None:
        return 'no CUDA kernels'
    start, size = (int(number, 16) for number in section.groups())
    packed = len(zlib.compress(library.read_bytes()[start : start + size]))
    share = f'{packed / 1e6:.2f} MB of it CUDA kernels for {listed}'
    if not shutil.which('cuobjdump'):
        return f'{share}, which were not looked at, since cuobjdump is missing'
    for kind, without in (('elf', 'virtual'), ('ptx', 'real')):
        wanted = {a.partition('-')[0] for a in listed.split() if not a.endswith(without)}
        found = set(re.findall(r'\.sm_(\d+)\w*\.', _output('cuobjdump', f'--list-{kind}', library)))
        assert found == wanted, f'{library.name} has {kind} for {found}, not for {wanted}'
    usage = _output('cuobjdump', '--dump-resource-usage', library)
    kernels = re.findall(r'Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)', usage)
    assert kernels, usage[:500]
    spilling = [name for name, _, *bytes_ in kernels if any(map(int, bytes_))]
    assert not spilling, f'these kernels use local memory: {spilling}'
    most = max(int(registers) for _, registers, *_ in kernels)
    return f'{share}, in up to {most} registers'


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == '__main__':
    main(Path(sys.argv[1]))
