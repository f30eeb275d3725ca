-- Put texts under names of a versioned store, each unless another writer has put the name since the caller read it.
-- KEYS, in one hash slot:
--   1. the store's birth (its generation) and version, a hash; if it was cleared on purpose, also the version then
--   2. name -> text, a hash
--   3. name -> the version at which it was put, a sorted set
--   4. the same, of removed names (tombstones) only
-- ARGV: the most names that may exist, tombstones to remember, the generation that the caller read ('' for none), and an
-- unused one to take if a new one begins; then for each put its name, the version of the name that the caller read (0
-- for none), the text, and '1' if it removes the name, else '0'.
-- Returns for each put its version; or 0 if another writer came first or the store has another generation, or -1 if
-- there would be too many names.
local max_names, max_removed = tonumber(ARGV[1]), tonumber(ARGV[2])

local function integer(number)
  return string.format('%.0f', number)
end

-- A version is the time in microseconds, or the last version + 1 if that is larger: so versions grow even if the store
-- was flushed or moved to another server.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', KEYS[1], 'birth', 'version')
local version = tonumber(state[2] or '0')
local outcomes = {}
if (state[1] or '') ~= ARGV[3] then
  for number = 1, (#ARGV - 4) / 4 do outcomes[number] = 0 end
  return outcomes
end
if not state[1] then redis.call('HSET', KEYS[1], 'birth', ARGV[4]) end

for index = 5, #ARGV, 4 do
  local name, expected, text, removed = unpack(ARGV, index, index + 3)
  local current = tonumber(redis.call('ZSCORE', KEYS[3], name) or '0')
  local is_new = removed ~= '1' and (current == 0 or redis.call('ZSCORE', KEYS[4], name))
  local outcome
  if current ~= tonumber(expected) then
    outcome = 0
  elseif is_new and redis.call('HLEN', KEYS[2]) - redis.call('ZCARD', KEYS[4]) >= max_names then
    outcome = -1
  else
    version = math.max(version + 1, now)
    redis.call('HSET', KEYS[2], name, text)
    redis.call('ZADD', KEYS[3], integer(version), name)
    if removed == '1' then
      redis.call('ZADD', KEYS[4], integer(version), name)
    else
      redis.call('ZREM', KEYS[4], name)
    end
    outcome = version
  end
  outcomes[#outcomes + 1] = outcome
end
redis.call('HSET', KEYS[1], 'version', integer(version))

-- Forget half of the tombstones at once: this takes a new generation, which makes every reader read the whole store.
local surplus = redis.call('ZCARD', KEYS[4]) - max_removed
if surplus > 0 then
  local oldest = redis.call('ZRANGE', KEYS[4], 0, surplus + math.floor(max_removed / 2) - 1)
  for _, name in ipairs(oldest) do
    redis.call('HDEL', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
    redis.call('ZREM', KEYS[4], name)
  end
  redis.call('HSET', KEYS[1], 'birth', ARGV[4])
end
return outcomes
