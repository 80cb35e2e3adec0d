"""How Sphinx builds the site; ``nox -s docs`` calls it, with warnings as errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / '_ext'))

project = 'torchopt'
author = 'The torchopt developers'
copyright = 'the torchopt developers'
release = ''

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.doctest',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'sphinx_design',
    'mathml',
    'public_names',
    'external_names',
]
exclude_patterns = ['_build', '_ext', 'jupyter_execute', '**/.ipynb_checkpoints']

# Every name that a page or a docstring refers to must be found.
nitpicky = True
nitpick_ignore_regex = [
    # Type variables, which the reader needs no page for.
    ('py:class', r'(.*\.)?(TreeT|TargetT|FunctionT|Carry|State|Made|Class|~P)'),
    # What only authors of new modes and places meet.
    ('py:class', r'torchopt\.unrolling\.storage\.base\.Session|torchopt_utils\.targets\.Stateful'),
    # graphviz and optree have no entry here.
    ('py:class', 'Digraph'),
    # Aliases and recipes that only the library's own code uses.
    ('py:class', 'Names|Recipe|TensorTree'),
]

myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath', 'fieldlist']
myst_heading_anchors = 4

# Every page runs whenever the site is built: a cache would not see that the library has changed.
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # tables, and links to pages, in what cells show
os.environ['MATPLOTLIBRC'] = str(DOCS / '_static' / 'matplotlibrc')
os.environ['PYTHONPATH'] = os.pathsep.join(
    [
        *(str(DOCS / folder) for folder in ('gallery', 'examples', 'moving-here')),
        str(DOCS.parent / 'tests'),  # for its counter of memory
        os.environ.get('PYTHONPATH', ''),
    ]
)
# What a page prints must not depend on the machine's cores, and small networks gain nothing.
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['TQDM_DISABLE'] = '1'

autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented_params'
autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = 'pydata_sphinx_theme'
html_title = 'torchopt'
html_logo = html_favicon = '_static/logo.svg'
html_domain_indices = False
html_context = {'default_mode': 'auto'}
html_static_path = ['_static']
html_css_files = ['site.css']
html_theme_options = {
    'logo': {'text': 'torchopt'},
    'show_prev_next': True,
    'navigation_with_keys': False,
    'secondary_sidebar_items': ['page-toc'],
    'header_links_before_dropdown': 5,
}
