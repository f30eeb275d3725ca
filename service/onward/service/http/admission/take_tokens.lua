-- Take tokens of a caller, whose bucket is full at first and refilled evenly over the limit's period (GCRA).
-- KEYS[1]: the time at which the bucket is full again, in µs since 1970 by the server's clock; absent if it is full.
-- ARGV: the capacity in tokens, the period in µs, how many tokens to take at most.
-- Returns how many were taken, and the µs until the next token if there was none.
local EPSILON = 0.001 -- of a token: what rounding may lose
local period, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
local token = period / tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local missing = math.max(0, (tonumber(redis.call('GET', KEYS[1]) or now) or now) - now)
missing = math.min(missing, period) -- else a clock that was set back would refuse the caller for longer
local taken = math.min(wanted, math.floor((period - missing) / token + EPSILON))
if taken < 1 then
  return {0, math.ceil(missing + token - period)}
end
missing = missing + taken * token
redis.call('SET', KEYS[1], string.format('%.17g', now + missing), 'PX', math.ceil(missing / 1000))
return {taken, 0}
