"""Raw files to curate: found in folders, buckets and tables, each with its identity."""

from curation.inputs.file import InputFile
from curation.inputs.listing import Listing, list_inputs

__all__ = ["InputFile", "Listing", "list_inputs"]
