-- Clear a versioned store on purpose: remove all names and take a new generation, so that every reader forgets them.
-- KEYS: those of versioned_store_put.lua. ARGV: an unused generation.
-- Returns how many names had a value.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
local version = string.format('%.0f', math.max(last + 1, now))
local names = redis.call('HLEN', KEYS[2]) - redis.call('ZCARD', KEYS[4])
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
redis.call('HSET', KEYS[1], 'birth', ARGV[1], 'version', version, 'cleared', version)
return names
