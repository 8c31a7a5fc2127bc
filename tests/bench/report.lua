-- What wrk found, as one line of JSON: latencies in microseconds, at the percentiles that the bench tells or draws.
local percentiles = { 50, 75, 90, 99, 99.9 }

done = function(summary, latency, requests)
    local parts = {}
    for _, p in ipairs(percentiles) do
        parts[#parts + 1] = string.format('"p%s": %d', tostring(p), latency:percentile(p))
    end
    local e = summary.errors
    io.write(string.format(
        '\nREPORT {"requests": %d, "duration_us": %d, "max": %d, "failed": %d, "refused": %d, "status": %d, %s}\n',
        summary.requests, summary.duration, latency.max, e.read + e.write + e.timeout, e.connect, e.status,
        table.concat(parts, ", ")
    ))
end
