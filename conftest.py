"""Settings for all tests."""

from hypothesis import settings

# On a busy machine, the time that an example takes means nothing.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')
