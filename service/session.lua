-- Apply events to a session, each event id once, and return the session: append, trim, expire, deduplicate and read.
-- KEYS[1]: the session's events, a list, oldest first.
-- KEYS[2]: the ids of events applied before, a sorted set in the order of their arrival. Both keys share a hash slot.
-- ARGV: events to keep, milliseconds to live, event ids to remember, then an event and its id (or "") for each event.
-- Returns the number of events applied, the number of keys that held foreign data, and the session's events.
local max_events, ttl_ms, max_ids = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local foreign = 0

local function holds(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= expected and found ~= 'none' then
    foreign = foreign + 1
    return false
  end
  return found == expected
end

local has_events, has_ids = holds(KEYS[1], 'list'), holds(KEYS[2], 'zset')
if #ARGV == 3 then
  return {0, foreign, has_events and redis.call('LRANGE', KEYS[1], 0, -1) or {}}
end

if foreign > 0 then
  if not has_events then redis.call('DEL', KEYS[1]) end
  if not has_ids then redis.call('DEL', KEYS[2]) end
end

local newest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
local arrival = newest[2] and tonumber(newest[2]) or 0
local applied = 0
for position = 4, #ARGV, 2 do
  local event, event_id = ARGV[position], ARGV[position + 1]
  arrival = arrival + 1
  if event_id == '' or redis.call('ZADD', KEYS[2], 'NX', arrival, event_id) == 1 then
    redis.call('RPUSH', KEYS[1], event)
    applied = applied + 1
  end
end
redis.call('LTRIM', KEYS[1], -max_events, -1)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -max_ids - 1)
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('PEXPIRE', KEYS[2], ttl_ms)
return {applied, foreign, redis.call('LRANGE', KEYS[1], 0, -1)}
