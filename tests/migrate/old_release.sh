#!/bin/sh
# Runs the tests of the newest release on the schema with the new migrations. During a rollout, the old code runs on it.
# PYTHON: an interpreter that has the packages of the tests; without it, make creates a virtual environment.
#   sh tests/migrate/old_release.sh
set -eu
cd "$(dirname "$0")/../.."
if ! tag=$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null); then
    echo "old release: there is no release yet, nothing to test"
    exit 0
fi
new=""
for file in sql/[0-9]*.sql; do
    git cat-file -e "$tag:$file" 2>/dev/null || new="$new $file"
done
if [ -z "$new" ]; then
    echo "old release: $tag has all migrations, nothing to test"
    exit 0
fi
if contract=$(grep -l '^-- migrate: contract-for=' $new); then
    echo "old release: $contract is a contract migration, which $tag does not have to support; not tested"
    exit 0
fi
echo "old release: the tests of $tag on a schema with$new"
work=$(mktemp -d)
repository=$PWD
trap 'cd "$repository"; git worktree remove --force "$work/release"; rm -rf "$work"' EXIT
git worktree add --quiet --detach "$work/release" "$tag"
rm -rf "$work/release/sql"
cp -R sql "$work/release/sql"
cd "$work/release"
if [ -n "${PYTHON:-}" ]; then "$PYTHON" -m pytest; else make test; fi
