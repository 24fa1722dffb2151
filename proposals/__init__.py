"""Region proposals: an image in, candidate boxes out."""

from proposals.proposer import Proposer
from proposals.selective_search import SelectiveSearch

__all__ = ["Proposer", "SelectiveSearch"]
