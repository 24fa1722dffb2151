"""Region proposals: an image in, candidate boxes out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proposals.compute import PhotoSource, compute_proposals
    from proposals.multibox import MultiBox, MultiBoxProposer
    from proposals.proposer import Proposer
    from proposals.region_tree import RegionTree
    from proposals.selective_search import SelectiveSearch
    from proposals.store import ProposalFile
    from proposals.union import Union

_HOMES = {
    "MultiBox": "proposals.multibox",
    "MultiBoxProposer": "proposals.multibox",
    "Union": "proposals.union",
    "PhotoSource": "proposals.compute",
    "ProposalFile": "proposals.store",
    "Proposer": "proposals.proposer",
    "RegionTree": "proposals.region_tree",
    "SelectiveSearch": "proposals.selective_search",
    "compute_proposals": "proposals.compute",
}
__all__ = [
    "MultiBox",
    "MultiBoxProposer",
    "PhotoSource",
    "ProposalFile",
    "Proposer",
    "RegionTree",
    "SelectiveSearch",
    "Union",
    "compute_proposals",
]


def __getattr__(name: str) -> Any:
    # What writes files atomically serves programs too that have no use for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
