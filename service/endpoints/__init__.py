"""The endpoints. They speak HTTP: read fields, call the ledger, shape the answer. They do not know SQL."""

from dataclasses import dataclass

from service.database import Database
from service.readiness import Readiness


@dataclass(frozen=True)
class Parts:
    """What endpoints work with; joined in wsgi.py."""

    database: Database
    readiness: Readiness
