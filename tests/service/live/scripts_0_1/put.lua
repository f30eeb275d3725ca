-- Put texts under names of a versioned map, each if nobody else has put one since the writer looked.
-- KEYS[1]: the map's birth and version, a hash. KEYS[2]: name -> text, a hash. KEYS[3]: name -> the version at which it
-- was put, a sorted set. KEYS[4]: the same of removed names alone. All share a hash slot.
-- ARGV: names that may be there, removed names to remember, then for each put its name, the version at which the writer
-- saw the name put (0 for never), the text, and '1' where it says that the name is removed, else '0'.
-- Returns for each put its version; or 0 where something else is there, or -1 where it would be one name too many.
local max_names, max_removed = tonumber(ARGV[1]), tonumber(ARGV[2])

local function whole(number)
  return string.format('%.0f', number)
end

-- Versions are microseconds, or one more than the last: so they grow even over a flush or a move to another server.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', KEYS[1], 'birth', 'version')
local version = tonumber(state[2] or '0')
if not state[1] then redis.call('HSET', KEYS[1], 'birth', whole(now)) end

local outcomes = {}
for position = 3, #ARGV, 4 do
  local name, expected, text, removed = unpack(ARGV, position, position + 3)
  local held = tonumber(redis.call('ZSCORE', KEYS[3], name) or '0')
  local outcome
  if held ~= tonumber(expected) then
    outcome = 0
  elseif held == 0 and redis.call('HLEN', KEYS[2]) - redis.call('ZCARD', KEYS[4]) >= max_names then
    outcome = -1
  else
    version = math.max(version + 1, now)
    redis.call('HSET', KEYS[2], name, text)
    redis.call('ZADD', KEYS[3], whole(version), name)
    if removed == '1' then
      redis.call('ZADD', KEYS[4], whole(version), name)
    else
      redis.call('ZREM', KEYS[4], name)
    end
    outcome = version
  end
  outcomes[#outcomes + 1] = outcome
end
redis.call('HSET', KEYS[1], 'version', whole(version))

local surplus = redis.call('ZCARD', KEYS[4]) - max_removed
if surplus > 0 then -- half of them at once; a new birth makes every reader read all anew
  local oldest = redis.call('ZRANGE', KEYS[4], 0, surplus + math.floor(max_removed / 2) - 1)
  for _, name in ipairs(oldest) do
    redis.call('HDEL', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
    redis.call('ZREM', KEYS[4], name)
  end
  redis.call('HSET', KEYS[1], 'birth', whole(version))
end
return outcomes
