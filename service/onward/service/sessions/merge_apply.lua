-- Second step of a merge: merge what merge_take.lua put aside into the target session, once for each move.
-- KEYS, in one hash slot: the target's events, ids and state, as in append.lua; the applied moves, a hash:
-- name -> number of events.
-- ARGV: events to keep, time to live in ms, event ids to remember, marks to remember, the generation of a target that
-- begins, the name of the move, the count of events applied in the source; then three lists, each preceded by its
-- length: events, marks (each followed by its time), event ids.
-- Events are ordered by time, the target's own first among equals. An item is hidden if the mark is not older than the
-- other session's last event of the item.
-- Returns the number of events that were moved.
local EVENTS, IDS, STATE, MOVES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local max_events, ttl_ms, max_ids, max_marks = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local move, source_count = ARGV[6], tonumber(ARGV[7])
local TYPES = {[EVENTS] = 'list', [IDS] = 'zset', [STATE] = 'hash', [MOVES] = 'hash'}

-- Set foreign data aside.
for key, expected in pairs(TYPES) do
  local actual = redis.call('TYPE', key).ok
  if actual ~= expected and actual ~= 'none' then
    redis.call('RENAME', key, key .. '-broken')
    redis.call('PEXPIRE', key .. '-broken', ttl_ms)
  end
end

-- Return a count or a time in ms; nil for any other text, also for "nan" and "inf".
local function integer(text)
  return text and #text <= 16 and string.match(text, '^%-?%d+$') and tonumber(text)
end

local generation, count = unpack(redis.call('HMGET', STATE, 'birth', 'count'))
if not generation or #generation > 32 or not string.match(generation, '^[0-9a-f]+$') then generation = ARGV[5] end
count = integer(count) or 0
local applied_before = redis.call('HGET', MOVES, move)
if applied_before then return integer(applied_before) or 0 end

local next_argument = 8
local function read_list()
  local first, length = next_argument + 1, tonumber(ARGV[next_argument])
  next_argument = first + length
  local values = {}
  for index = first, next_argument - 1 do values[#values + 1] = ARGV[index] end
  return values
end
local moved, moved_marks, moved_ids = read_list(), read_list(), read_list()

-- Merge the events of both sessions by time.
local merged, times = {}, {own = {}, moved = {}}
local function add(event, origin)
  local time, item = string.match(event, '^(%d+) [^ ]+ (.+)$')
  if time == nil then return end
  time = tonumber(time)
  merged[#merged + 1] = {event = event, time = time, index = #merged}
  times[origin][item] = math.max(times[origin][item] or 0, time)
end
for _, event in ipairs(redis.call('LRANGE', EVENTS, 0, -1)) do add(event, 'own') end
for _, event in ipairs(moved) do add(event, 'moved') end
table.sort(merged, function(a, b)
  return a.time < b.time or (a.time == b.time and a.index < b.index)
end)

-- Merge the marks; drop those of items that the other session came back to later.
local marks = {}
local function mark(field, time, other_origin)
  local hidden = string.match(field, '^h:(.*)$')
  if hidden and (times[other_origin][hidden] or 0) > time then return end
  if string.match(field, '^[hp]:') then marks[field] = math.max(marks[field] or 0, time) end
end
local state = redis.call('HGETALL', STATE)
for index = 1, #state, 2 do mark(state[index], integer(state[index + 1]) or 0, 'moved') end
for index = 1, #moved_marks, 2 do
  mark(moved_marks[index], integer(moved_marks[index + 1]) or 0, 'own')
end
local fields = {}
for field in pairs(marks) do fields[#fields + 1] = field end
table.sort(fields, function(a, b)
  return marks[a] > marks[b] or (marks[a] == marks[b] and a > b)
end)

-- Write the merged session.
redis.call('HSET', MOVES, move, #moved)
redis.call('DEL', EVENTS, STATE)
count = count + source_count
redis.call('HSET', STATE, 'birth', generation, 'count', count)
for index = 1, math.min(#fields, max_marks) do
  redis.call('HSET', STATE, fields[index], string.format('%.0f', marks[fields[index]]))
end
for index = math.max(1, #merged - max_events + 1), #merged do redis.call('RPUSH', EVENTS, merged[index].event) end
local last_order = tonumber(redis.call('ZRANGE', IDS, -1, -1, 'WITHSCORES')[2]) or 0
for index, event_id in ipairs(moved_ids) do redis.call('ZADD', IDS, 'NX', last_order + index, event_id) end
redis.call('ZREMRANGEBYRANK', IDS, 0, -max_ids - 1)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return #moved
