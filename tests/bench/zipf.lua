-- Asks for pages by Zipf's law, few often and most seldom: KEYS pages of SIZE bytes (environment), each client in an order of its own.
local here = debug.getinfo(1, "S").source:match("@(.*/)") or "./"
dofile(here .. "report.lua")

local keys = tonumber(os.getenv("KEYS"))
local size = os.getenv("SIZE")
local sums, sum = {}, 0
for rank = 1, keys do
    sum = sum + 1 / rank ^ 0.9
    sums[rank] = sum
end

local function draw()
    local point, low, high = math.random() * sum, 1, keys
    while low < high do
        local middle = math.floor((low + high) / 2)
        if sums[middle] < point then low = middle + 1 else high = middle end
    end
    return low
end

local drawn, at = {}, 0

init = function()
    math.randomseed(os.time())
    for number = 1, 50000 do
        drawn[number] = wrk.format("GET", "/cache?max_age=3600&text=k&size=" .. size .. "&n=" .. draw())
    end
end

request = function()
    at = at % #drawn + 1
    return drawn[at]
end
