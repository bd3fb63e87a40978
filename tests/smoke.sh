#!/bin/sh
# Checks a running service over HTTP: smoke.sh URL. LEDGER_TOKEN has a token with the scopes read, write and admin:
# the money comes from an account whose min_balance is below 0.
# It opens three new accounts, posts and reverses transfers of one unit, and creates, captures and releases holds.
# At the first error it prints the reason and exits with 1.
set -u

url=${1:?usage: LEDGER_TOKEN=... smoke.sh URL}
: "${LEDGER_TOKEN:?set LEDGER_TOKEN to a token with the scopes read, write and admin}"
run="smoke-$(date +%s)-$$"
currency=EUR
seconds=10 # for one request

fail() {
    echo "smoke: $1" >&2
    exit 1
}

# call METHOD PATH [BODY]: sets $status and $body
call() {
    if [ $# -eq 3 ]; then set -- "$1" "$2" --data "$3"; fi
    method=$1 path=$2
    shift 2
    response=$(curl --silent --show-error --max-time "$seconds" --request "$method" \
        --header "Authorization: Bearer $LEDGER_TOKEN" --header 'Content-Type: application/json' \
        --write-out '\n%{http_code}' "$@" "$url$path") || fail "$method $path got no response"
    status=${response##*
}
    body=${response%
*}
}

# expect STATUS TEXT...: the last response has this status, and its body contains each text
expect() {
    [ "$status" = "$1" ] || fail "$method $path returned $status instead of $1: $body"
    shift
    for text in "$@"; do
        case $body in
        *"$text"*) ;;
        *) fail "$method $path returned a body without $text: $body" ;;
        esac
    done
}

step() {
    echo "ok: $1"
}

call GET /health
expect 200
step "the service is alive"

call GET /ready
expect 200 '"ready": true'
step "the service is ready"

call GET /metrics
expect 200 http_server_request_duration_seconds ledger_transfers_total
step "metrics are available"

call PUT "/v1/accounts/$run:a" "{\"currency\": \"$currency\", \"min_balance\": -1}"
expect 201 '"balance": 0'
call PUT "/v1/accounts/$run:b" "{\"currency\": \"$currency\"}"
expect 201 '"balance": 0'
step "accounts are opened"

move="{\"from\": \"$run:a\", \"to\": \"$run:b\", \"amount\": 1, \"currency\": \"$currency\"}"
call PUT "/v1/transfers/$run:1" "$move"
expect 201 '"status": "posted"' '"from_balance": -1' '"to_balance": 1'
first=$body
step "a transfer is posted"

call PUT "/v1/transfers/$run:1" "$move"
expect 200
[ "$body" = "$first" ] || fail "the repeated transfer returned another body: $body"
call GET "/v1/accounts/$run:b"
expect 200 '"balance": 1,'
step "a repeat changes nothing"

call GET "/v1/transfers/$run:1"
expect 200
[ "$body" = "$first" ] || fail "GET of the transfer returned another body than its PUT: $body"
call GET "/v1/accounts/$run:b/entries"
expect 200 "\"transfer\": \"$run:1\"" '"amount": 1, "balance": 1'
step "the transfer can be read"

call PUT "/v1/transfers/$run:2" "$move"
expect 422 /problems/insufficient-funds
call GET "/v1/accounts/$run:a"
expect 200 '"balance": -1,'
step "an overdraft is declined"

call PUT "/v1/holds/$run:h1" "{\"from\": \"$run:b\", \"to\": \"$run:a\", \"amount\": 1, \"currency\": \"$currency\"}"
expect 201 '"status": "open"'
call GET "/v1/accounts/$run:b"
expect 200 '"balance": 1, "held": 1, "available": 0'
step "a hold reserves money"

call PUT "/v1/transfers/$run:3" "{\"captures\": \"$run:h1\"}"
expect 201 "\"captures\": \"$run:h1\"" '"amount": 1,' '"to_balance": 0'
call GET "/v1/holds/$run:h1"
expect 200 '"status": "captured"' "\"captured_by\": \"$run:3\""
step "a hold is captured"

call PUT "/v1/transfers/$run:4" "{\"reverses\": \"$run:3\"}"
expect 201 "\"reverses\": \"$run:3\"" '"amount": 1,' '"to_balance": 1'
call PUT "/v1/transfers/$run:5" "{\"reverses\": \"$run:3\"}"
expect 422 /problems/reversal-exceeds-transfer
step "a transfer is reversed once"

call PUT "/v1/holds/$run:h2" "{\"from\": \"$run:b\", \"to\": \"$run:a\", \"amount\": 1, \"currency\": \"$currency\"}"
expect 201 '"status": "open"'
call DELETE "/v1/holds/$run:h2"
expect 200 '"status": "released"'
call GET "/v1/accounts/$run:b"
expect 200 '"balance": 1, "held": 0, "available": 1'
step "a hold is released"

call POST /v1/batches "{\"atomic\": true, \"items\": [
    {\"account\": {\"id\": \"$run:c\", \"currency\": \"$currency\"}},
    {\"transfer\": {\"id\": \"$run:6\", \"from\": \"$run:b\", \"to\": \"$run:c\", \"amount\": 1, \"currency\": \"$currency\"}}
]}"
expect 200 '"status": 201, "account"' '"status": 201, "transfer"' '"to_balance": 1'
call GET "/v1/accounts/$run:c"
expect 200 '"balance": 1,'
step "a batch opens an account and posts a transfer to it"

echo "smoke: all checks passed at $url"
