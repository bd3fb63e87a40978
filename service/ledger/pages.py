"""Ends a list where its page is full, so that PostgreSQL does not send rows that no response will have."""

from psycopg.sql import SQL, Composed, Literal

from service.contract import LIMITS


def end_at_page_bytes(rows: SQL | Composed, columns: SQL | Composed, order: SQL, json: SQL) -> Composed:
    """The statement `rows`, ended after the row with which the text of `json` has more than page_bytes.

    PostgreSQL writes this text as the service does, and it is only a part of the JSON of a row. So if rows are left
    out, those before have more than page_bytes, and http/response.py ends the page earlier.
    """
    return SQL(
        """
        SELECT {columns}
        FROM (
            SELECT *, coalesce(
                sum(octet_length({json})) OVER (
                    ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ),
                0
            ) AS bytes_before
            FROM ({rows}) AS found
        ) AS measured
        WHERE bytes_before <= {page_bytes}
        ORDER BY {order}
        """
    ).format(columns=columns, json=json, order=order, rows=rows, page_bytes=Literal(LIMITS.page_bytes))
