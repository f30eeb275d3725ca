-- Remember sessions of a user for a while. KEYS: a sorted set of sessions by the time of the server at which they were
-- added last, in ms. ARGV: how long they are remembered in ms, then the digests of the sessions.
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - tonumber(ARGV[1]))
for place = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now_ms, ARGV[place])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
