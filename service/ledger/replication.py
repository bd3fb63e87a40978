"""What the response to a write needs if PostgreSQL has a synchronous standby.

A row can be visible before the standby has it: the wait of its COMMIT was cancelled, or its session was lost. A
failover then loses the row. So a response that acknowledges what an earlier request did is sent after a commit of its
own.
"""

from service.session import Connection


def confirm(connection: Connection, *, is_replicated: bool) -> None:
    """End a transaction that wrote nothing, so that what it has read can be acknowledged.

    With a standby, this commits a message to the log, because a commit that writes nothing does not wait. It waits
    until the standby has the log up to the message, and so also the rows that were read. Raises as
    `execute_and_commit`.
    """
    if is_replicated:
        connection.execute_and_commit("SELECT pg_logical_emit_message(true, 'ledger', ''); COMMIT", {})
    else:
        connection.execute("ROLLBACK")  # flushes nothing
