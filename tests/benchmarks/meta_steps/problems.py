"""The sizes in which every way is measured."""

from sinusoids import Size

PROBLEMS = {'small': Size(), 'large': Size(tasks=8, width=256, shots=32)}
