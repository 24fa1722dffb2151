"""Region proposals: an image in, candidate boxes out."""

from proposals.compute import PhotoSource, compute_proposals
from proposals.proposer import Proposer
from proposals.region_tree import RegionTree
from proposals.selective_search import SelectiveSearch
from proposals.store import ProposalFile

__all__ = [
    "PhotoSource",
    "ProposalFile",
    "Proposer",
    "RegionTree",
    "SelectiveSearch",
    "compute_proposals",
]
