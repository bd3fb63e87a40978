"""/v1/trial-balance: the sums of all balances."""

from typing import Any

from service.http import fields
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response
from service.ledger import trial_balance
from service.ledger.types import CurrencyTotals


def get(request: Request, dependencies: Dependencies) -> Response:
    """GET /v1/trial-balance: by currency, of the accounts whose ids start with `prefix`."""
    prefix = fields.query_id(request.query, "prefix")
    # A million accounts keep a connection for 0.4 s (docs/performance.md).
    found = dependencies.database.run_long(lambda connection: trial_balance.read_and_advance_time(connection, prefix))
    totals = [_show_totals(each) for each in found.currencies]
    return json_response(200, {"number": found.number, "currencies": totals})


def _show_totals(totals: CurrencyTotals) -> dict[str, Any]:
    """The members of one currency. Sums are strings, because they can be above 2^53-1."""
    return {
        "currency": totals.currency,
        "accounts": totals.accounts,
        "credit": str(totals.credit),
        "debit": str(totals.debit),
        "balance": str(totals.credit - totals.debit),
        "held": str(totals.held),
    }
