"""/v1/batches: accounts, transfers, holds and releases in one request."""

from collections.abc import Callable
from typing import Any

from service.contract import LIMITS
from service.errors import Refusal
from service.http import accounts, holds, transfers
from service.http.fields import FieldErrors, FieldReader
from service.http.request import Dependencies, Request
from service.http.response import Response, json_response, show_problem, show_record
from service.ledger import posting
from service.ledger.types import Account, AccountCommand, Command, Hold, Result, Transfer

# How each kind of item is read. Its value is the body of the PUT with the id as a member; a release has only an id.
_READERS: dict[str, Callable[..., Command]] = {
    "account": accounts.read_account,
    "transfer": transfers.read_transfer,
    "hold": holds.read_hold,
    "release": holds.read_release,
}
_KINDS_OF_RECORDS = {Account: "account", Transfer: "transfer", Hold: "hold"}


def post(request: Request, dependencies: Dependencies) -> Response:
    """POST /v1/batches: 1 to 1,000 items, atomically or independently. One result per item, in order."""
    errors = FieldErrors()
    reader = FieldReader(request.body, ("atomic", "items"), errors)
    atomic = reader.boolean("atomic")
    items = reader.items("items", LIMITS.batch_items)
    commands = [
        command
        for index, item in enumerate(items)
        if (command := _read_item(item, errors, request.caller, f"/items/{index}"))
    ]
    errors.raise_if_any()
    for command in commands:
        if isinstance(command, AccountCommand):
            accounts.require_scope(request, command)
    results = dependencies.database.run_long(
        lambda connection: posting.post(connection, commands, atomic=atomic, check=_require_small_results)
    )
    return json_response(200, {"results": [_show_result(result, request.request_id) for result in results]})


def _read_item(item: Any, errors: FieldErrors, caller: str, pointer: str) -> Command | None:
    """The command of an item; None after an error."""
    if not isinstance(item, dict) or len(item) != 1 or not item.keys() <= _READERS.keys():
        errors.add(pointer, f"must be an object with exactly one of the members {', '.join(_READERS)}")
        return None
    [(kind, value)] = item.items()
    return _READERS[kind](value, errors, caller, pointer=f"{pointer}/{kind}")


def _require_small_results(results: list[Result]) -> None:
    """Raise Refusal `batch-too-large` if the response would be many times larger than the request.

    The metadata of new records is in the request. That of released holds is not: 1,000 of them can have 40 MB.
    """
    records = [result.record for result in results if result.record]
    characters = sum(len(name) + len(text) for record in records for name, text in record.metadata.items())
    if characters > LIMITS.batch_metadata_characters:
        detail = f"The results would have {characters} characters of metadata. Send fewer items."
        raise Refusal("batch-too-large", detail)


def _show_result(result: Result, request_id: str) -> dict[str, Any]:
    if result.refusal:
        problem = show_problem(result.refusal, request_id)
        return {"status": problem["status"], "problem": problem}
    kind = _KINDS_OF_RECORDS[type(result.record)]
    return {"status": 201 if result.is_new else 200, kind: show_record(result.record)}
