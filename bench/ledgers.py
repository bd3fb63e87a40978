"""Creates ledgers of a given size for measurements. The audit finds no error in them.

Transfers are random: their ids have no order, as UUIDs have none, and each pair of accounts is equally likely. The rows
are written by COPY without indexes and constraints, which are created afterwards. So ten million transfers take about
one minute.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg.sql import SQL, Identifier

from service.migrate import runner
from service.migrate.files import read_files

CURRENCY = "EUR"
METADATA = '{"order": "A-19"}'  # as in the requests of load.lua
FIRST_AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS_PER_WRITE = 1000  # of a COPY; the transfers of one write have the same time
MAINTENANCE_MEMORY = "512MB"  # for sorting the keys of an index; the default of 64MB needs temporary files
SEED = 1  # the same ledger in each run

_TABLES = ("transfer", "account")


def create(owner: psycopg.Connection[tuple[object, ...]], transfers: int, accounts: int) -> None:
    """Migrate the empty database and fill it. The accounts are a0, a1, a2 …, and none has a floor."""
    runner.up(owner, read_files())
    owner.execute(SQL("SET maintenance_work_mem = {}").format(MAINTENANCE_MEMORY))
    constraints, indexes = _drop_constraints_and_indexes(owner)
    balances = [0] * accounts
    with (
        owner.cursor() as cursor,
        cursor.copy(
            """
            COPY transfer (
                id, number, status, from_account, to_account, amount, currency, from_balance, to_balance, metadata,
                created_at, created_by
            ) FROM STDIN
            """
        ) as copy,
    ):
        for rows in _transfer_rows(transfers, balances):
            copy.write(rows)
    with (
        owner.cursor() as cursor,
        cursor.copy("COPY account (id, currency, balance, metadata, created_by) FROM STDIN") as copy,
    ):
        for number, balance in enumerate(balances):
            copy.write(f"a{number}\t{CURRENCY}\t{balance}\t{METADATA}\tbench\n")
    owner.execute("UPDATE journal SET last_number = %(number)s", {"number": transfers})
    for statement in constraints + indexes:
        owner.execute(statement.encode())
    owner.execute("VACUUM (ANALYZE) transfer, account, journal")


def _transfer_rows(transfers: int, balances: list[int]) -> Iterator[str]:
    """Lines of COPY, ROWS_PER_WRITE at a time. Updates the balances."""
    generator = random.Random(SEED)
    accounts = len(balances)
    for first in range(1, transfers + 1, ROWS_PER_WRITE):
        lines = []
        end = f"{METADATA}\t{(FIRST_AT + timedelta(milliseconds=first)).isoformat()}\tbench\n"
        for number in range(first, min(first + ROWS_PER_WRITE, transfers + 1)):
            source = int(generator.random() * accounts)
            target = (source + 1 + int(generator.random() * (accounts - 1))) % accounts
            balances[source] -= 1
            balances[target] += 1
            lines.append(
                f"{generator.getrandbits(64):016x}-{number}\t{number}\tposted\ta{source}\ta{target}\t1\t{CURRENCY}\t"
                f"{balances[source]}\t{balances[target]}\t{end}"
            )
        yield "".join(lines)


def _drop_constraints_and_indexes(owner: psycopg.Connection[tuple[object, ...]]) -> tuple[list[str], list[str]]:
    """Drop the keys and indexes of the large tables; returns the statements that create them again."""
    found = owner.execute(
        """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE contype IN ('p', 'u', 'f')
            AND (conrelid = ANY(%(tables)s::regclass[]) OR confrelid = ANY(%(tables)s::regclass[]))
        ORDER BY contype = 'f', conname
        """,
        {"tables": list(_TABLES)},
    ).fetchall()
    constraints: list[str] = []
    for table, name, definition in reversed(found):  # foreign keys first: they depend on the primary keys
        drop = SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(Identifier(str(table)), Identifier(str(name)))
        owner.execute(drop)
        constraints.insert(0, f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    indexes = []
    for name, definition in owner.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(%(tables)s)",
        {"tables": list(_TABLES)},
    ).fetchall():
        owner.execute(SQL("DROP INDEX {}").format(Identifier(str(name))))
        indexes.append(str(definition))
    return constraints, indexes
