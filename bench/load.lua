-- Load for wrk: wrk … -s load.lua URL -- KIND ACCOUNTS TOKEN ITEMS SEED
-- KIND: spread, hot, locked (transfers; the last from the account `locked`), batch (of ITEMS transfers), old_batch (the same for the
-- baseline, which has POST /v1/transfers), opening (a batch that opens ITEMS accounts), read (an account), page (20 entries of an account).
-- Every id is new and begins with random digits, as a UUID does. SEED makes the ids of each run differ.
-- The last line of the output is JSON.

local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

function init(arguments)
  kind = arguments[1]
  accounts = tonumber(arguments[2])
  token = arguments[3]
  items = tonumber(arguments[4])
  seed = tonumber(arguments[5])
  math.randomseed(seed + thread_number)
  sent = 0
  headers = { ["Authorization"] = "Bearer " .. token, ["Content-Type"] = "application/json" }
end

local function new_id()
  sent = sent + 1
  return string.format("%08x%08x-%x-%d-%d", math.random(0, 2 ^ 32 - 1), math.random(0, 2 ^ 32 - 1), seed, thread_number, sent)
end

local function members()
  local from = kind == "hot" and 0 or math.random(0, accounts - 1)
  local to = (from + math.random(1, accounts - 1)) % accounts
  local source = kind == "locked" and "locked" or "a" .. from
  return string.format('"from":"%s","to":"a%d","amount":1,"currency":"EUR","metadata":{"order":"A-19"}', source, to)
end

-- ITEMS JSON objects, each between `before` and `after`, separated by commas. make() returns the members after the id.
local function list(before, make, after)
  local found = {}
  for number = 1, items do
    found[number] = before .. '{"id":"' .. new_id() .. '",' .. make() .. "}" .. after
  end
  return table.concat(found, ",")
end

local function account_members()
  return '"currency":"EUR","min_balance":null,"metadata":{"order":"A-19"}'
end

function request()
  if kind == "read" then
    return wrk.format("GET", "/v1/accounts/a" .. math.random(0, accounts - 1), headers)
  elseif kind == "page" then
    local account = math.random(0, accounts - 1)
    return wrk.format("GET", "/v1/accounts/a" .. account .. "/entries?order=desc&limit=20", headers)
  elseif kind == "batch" then
    return wrk.format("POST", "/v1/batches", headers, '{"atomic":false,"items":[' .. list('{"transfer":', members, "}") .. "]}")
  elseif kind == "opening" then
    return wrk.format("POST", "/v1/batches", headers, '{"atomic":false,"items":[' .. list('{"account":', account_members, "}") .. "]}")
  elseif kind == "old_batch" then
    return wrk.format("POST", "/v1/transfers", headers, '{"atomic":false,"transfers":[' .. list("", members, "") .. "]}")
  end
  return wrk.format("PUT", "/v1/transfers/" .. new_id(), headers, "{" .. members() .. "}")
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%f,"refused":%d,"failed":%d,"p50_ms":%f,"p99_ms":%f,"max_ms":%f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
