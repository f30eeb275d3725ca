-- Read jobs, the newest first.
-- KEYS: all. ARGV: prefix, how many newer ones to pass over, the most to return. Returns the fields of each.
local ids = redis.call('ZREVRANGE', KEYS[1], ARGV[2], tonumber(ARGV[2]) + tonumber(ARGV[3]) - 1)
local jobs = {}
for number, id in ipairs(ids) do jobs[number] = redis.call('HGETALL', ARGV[1] .. 'job:' .. id) end
return jobs
