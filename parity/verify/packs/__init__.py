"""What is known of a side as a file: what it holds, how it is read without trust, who signed it.

container   named entries with a hash each
arrays      an entry of numbers
codec       one prompt's record as two entries
pack        all of a side: written record by record, read on demand
parts       a pack in the making
signature   Ed25519 over everything in a pack, or over a report
"""

from .container import MAGIC
from .pack import Pack, PackWriter

__all__ = ["MAGIC", "Pack", "PackWriter"]
