#!/bin/sh
# Runs squawk on the migrations that no release tag has: it finds statements that block or break the running service.
#   sh dev/lint_sql.sh SQUAWK [FOLDER]
#
# Two rules are excluded. prefer-robust-stmts: IF NOT EXISTS would hide drift, and a file runs once, in one transaction.
# require-timeout-settings: the runner sets both timeouts. If a file must break another rule, for example to drop a
# column in a contract migration, it allows this in the line above: `-- squawk-ignore ban-drop-column`.
set -eu
squawk=$1
cd "${2:-$(dirname "$0")/..}"
tag=$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null || true)
for file in sql/[0-9]*.sql; do
    if [ -n "$tag" ] && git cat-file -e "$tag:./$file" 2>/dev/null; then continue; fi
    transaction=--assume-in-transaction
    if grep -q '^-- migrate: no-transaction' "$file"; then transaction=--no-assume-in-transaction; fi
    "$squawk" "$transaction" --pg-version=15.0 --exclude=prefer-robust-stmts,require-timeout-settings "$file" 2>&1
done
