#!/bin/sh
# squawk reads the migrations that no released tag has yet: which of them lock or break what is running?
#   sh tests/lint_sql.sh SQUAWK [FOLDER]
#
# Left out are two rules. prefer-robust-stmts: IF NOT EXISTS would pass over what is there by mistake, and a file runs
# once and whole. require-timeout-settings: the runner sets both timeouts. What a reviewed file must do all the same, such
# as dropping a column in a contract migration, it allows itself with `-- squawk-ignore ban-drop-column` above the line.
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
