-- Cycles over the bodies in the file $BODIES (see questions.py); prints one line of JSON at the end.
local requests, at = {}, 0

function init()
  local shared = {}
  for name, value in (os.getenv("REQUEST_HEADERS") or ""):gmatch("([^:\n]+): ([^\n]*)") do
    shared[name] = value
  end
  local file = assert(io.open(os.getenv("BODIES"), "rb"))
  for line in file:lines() do
    local json, length, target = line:match("(%d+) (%d+) ?(.*)")
    local headers = {}
    for name, value in pairs(shared) do headers[name] = value end
    if target ~= "" then
      requests[#requests + 1] = wrk.format("GET", target, headers)
    elseif json == "0" then
      headers["Content-Type"] = "application/json"
    else
      headers["Content-Type"] = "application/octet-stream"
      headers["Inference-Header-Content-Length"] = json
    end
    local body = file:read(tonumber(length))
    if target == "" then requests[#requests + 1] = wrk.format("POST", nil, headers, body) end
    file:read(1)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'WRK {"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p90_ms":%.4f,"p99_ms":%.4f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
