"""The schema of a database as sorted text, one line for each object, so that two schemas can be compared."""

from typing import Any

from psycopg import Connection

_LINES = """
    WITH of_extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'), relation AS (
        SELECT *
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname <> 'schema_migration'
            AND ('pg_class'::regclass, oid) NOT IN (TABLE of_extension)
    ), granted AS (
        SELECT relname AS object, relacl AS acl FROM relation
        UNION ALL
        SELECT relname || '.' || attname, attacl FROM relation JOIN pg_attribute ON attrelid = relation.oid
        UNION ALL
        SELECT 'schema public', nspacl FROM pg_namespace WHERE nspname = 'public'
    ), line (words) AS (
        SELECT concat_ws(' ', 'table', relname, relkind, relpersistence, reloptions, relrowsecurity,
            CASE WHEN relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END)
        FROM relation
        WHERE relkind NOT IN ('i', 'I')
        UNION ALL
        SELECT concat_ws(' ', 'column', relname || '.' || attname, format_type(atttypid, atttypmod),
            CASE WHEN attnotnull THEN 'NOT NULL' END,
            CASE WHEN attcollation > 100 THEN 'COLLATE ' || attcollation::regcollation END,  -- 100: default
            'IDENTITY ' || nullif(attidentity::text, ''), 'GENERATED ' || nullif(attgenerated::text, ''),
            'DEFAULT ' || pg_get_expr(adbin, adrelid))
        FROM relation
        JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0 AND NOT attisdropped
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relkind NOT IN ('i', 'I', 'S')
        UNION ALL
        SELECT concat_ws(' ', 'constraint', relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid),
            CASE WHEN pg_constraint.oid IN (SELECT tgconstraint FROM pg_trigger WHERE tgenabled IN ('D', 'R'))
                THEN 'DISABLED' END)
        FROM relation
        JOIN pg_constraint ON conrelid = relation.oid AND contype <> 'n'  -- 'n': NOT NULL, see column
        UNION ALL
        SELECT concat_ws(' ', 'index', made.relname,
            CASE WHEN NOT indisvalid THEN 'INVALID' END, pg_get_indexdef(indexrelid))
        FROM relation
        JOIN pg_index ON indrelid = relation.oid
        JOIN pg_class made ON made.oid = indexrelid
        UNION ALL
        SELECT concat_ws(' ', 'trigger', relname || '.' || tgname, tgenabled, pg_get_triggerdef(pg_trigger.oid))
        FROM relation
        JOIN pg_trigger ON tgrelid = relation.oid AND NOT tgisinternal
        UNION ALL
        SELECT concat_ws(' ', 'rule', relname || '.' || rulename, nullif(ev_enabled, 'O'),
            pg_get_ruledef(pg_rewrite.oid))
        FROM relation
        JOIN pg_rewrite ON ev_class = relation.oid  -- includes the SELECT of a view
        UNION ALL
        SELECT concat_ws(' ', 'function', oid::regprocedure, replace(pg_get_functiondef(oid), E'\\n', '\\n'))
        FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
            AND ('pg_proc'::regclass, oid) NOT IN (TABLE of_extension)
        UNION ALL
        SELECT concat_ws(' ', 'enum', enumtypid::regtype, string_agg(enumlabel, ' < ' ORDER BY enumsortorder))
        FROM pg_enum
        JOIN pg_type ON pg_type.oid = enumtypid AND typnamespace = 'public'::regnamespace
        WHERE ('pg_type'::regclass, enumtypid) NOT IN (TABLE of_extension)
        GROUP BY enumtypid
        UNION ALL
        SELECT DISTINCT concat_ws(' ', 'right', object, privilege_type, 'TO', coalesce(rolname, 'PUBLIC'),
            CASE WHEN is_grantable THEN 'WITH GRANT OPTION' END)  -- one line, even if several roles granted it
        FROM granted
        CROSS JOIN aclexplode(acl)
        LEFT JOIN pg_roles ON pg_roles.oid = grantee
        WHERE coalesce(rolname, 'ledger_service') = 'ledger_service'
            AND (object, privilege_type) <> ('schema public', 'USAGE')  -- granted to PUBLIC in every new database
    )
    SELECT regexp_replace(words, '\\s*\\n\\s*', ' ', 'g')
    FROM line
    ORDER BY words COLLATE "C"
"""


def read(connection: Connection[Any]) -> str:
    """The objects of the schema public, after a first line with PostgreSQL's major version.

    Other major versions may print the same schema differently. Not included: schema_migration, objects of extensions,
    and privileges of roles other than PUBLIC and ledger_service.
    """
    rows = connection.execute(_LINES).fetchall()
    return "\n".join([f"PostgreSQL {connection.info.server_version // 10000}", *(words for (words,) in rows)])


def major(schema: str) -> str:
    """The first line of a schema, such as "PostgreSQL 18"."""
    return schema.partition("\n")[0]


def difference(expected: str | None, found: str) -> list[str]:
    """The missing lines with the prefix "- ", then the unexpected ones with "+ "; none if the major versions differ."""
    if expected is None or major(expected) != major(found):
        return []
    old, new = expected.splitlines(), found.splitlines()
    return [f"- {line}" for line in old if line not in new] + [f"+ {line}" for line in new if line not in old]
