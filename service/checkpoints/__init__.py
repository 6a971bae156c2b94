"""Published checkpoints: which there are, and how they are fetched."""

from service.checkpoints.catalogue import CATALOGUE, Checkpoint
from service.checkpoints.transfer import FetchError, fetch

__all__ = ["CATALOGUE", "Checkpoint", "FetchError", "fetch"]
