"""The tree functions of `optree <https://optree.readthedocs.io>`_, used through one module.

The library's own trees are read with ``none_is_leaf=True``: a None stands for an absent tensor
(a parameter without gradient, a layer without bias) and keeps its place.
"""

from optree import PyTree as PyTree
from optree import PyTreeAccessor as PyTreeAccessor
from optree import PyTreeSpec as PyTreeSpec
from optree import register_pytree_node as register_pytree_node
from optree import register_pytree_node_class as register_pytree_node_class
from optree import tree_accessors as tree_accessors
from optree import tree_all as tree_all
from optree import tree_any as tree_any
from optree import tree_flatten as tree_flatten
from optree import tree_flatten_with_accessor as tree_flatten_with_accessor
from optree import tree_flatten_with_path as tree_flatten_with_path
from optree import tree_iter as tree_iter
from optree import tree_leaves as tree_leaves
from optree import tree_map as tree_map
from optree import tree_map_ as tree_map_
from optree import tree_map_with_accessor as tree_map_with_accessor
from optree import tree_map_with_path as tree_map_with_path
from optree import tree_paths as tree_paths
from optree import tree_reduce as tree_reduce
from optree import tree_structure as tree_structure
from optree import tree_transpose as tree_transpose
from optree import tree_unflatten as tree_unflatten
