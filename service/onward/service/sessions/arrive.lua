-- Merge what take.lua put aside into a session, each move once.
-- KEYS, in one slot: the session's events, ids and state, as session.lua keeps them; the moves that arrived, a hash.
-- ARGV: events to keep, milliseconds to live, event ids to remember, marks to remember, the birth of a new session, the
-- move's name, the count of events applied in its source; then three lists, each led by its length: events, marks (each
-- followed by its time), event ids.
-- Events are kept by the order of their times, the session's own first among equals. The later of a mark that hides an
-- item and an event of that item decides. Returns the number of events that arrived.
local EVENTS, IDS, STATE, MOVES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local max_events, ttl_ms, max_ids, max_marks = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local move, source_count = ARGV[6], tonumber(ARGV[7])
local TYPES = {[EVENTS] = 'list', [IDS] = 'zset', [STATE] = 'hash', [MOVES] = 'hash'}

for key, expected in pairs(TYPES) do
  local found = redis.call('TYPE', key).ok
  if found ~= expected and found ~= 'none' then redis.call('DEL', key) end
end

local birth, count = unpack(redis.call('HMGET', STATE, 'birth', 'count'))
birth, count = birth or ARGV[5], tonumber(count or 0) or 0
local arrived_before = redis.call('HGET', MOVES, move)
if arrived_before then return tonumber(arrived_before) end

local place = 8
local function list()
  local first, length = place + 1, tonumber(ARGV[place])
  place = first + length
  local values = {}
  for position = first, place - 1 do values[#values + 1] = ARGV[position] end
  return values
end
local arriving, arriving_marks, arriving_ids = list(), list(), list()

local merged, times = {}, {own = {}, arriving = {}}
local function add(event, origin)
  local time, item = string.match(event, '^(%d+) [^ ]+ ([^ ]+)$')
  if time == nil then return end
  time = tonumber(time)
  merged[#merged + 1] = {event = event, time = time, place = #merged}
  times[origin][item] = math.max(times[origin][item] or 0, time)
end
for _, event in ipairs(redis.call('LRANGE', EVENTS, 0, -1)) do add(event, 'own') end
for _, event in ipairs(arriving) do add(event, 'arriving') end
table.sort(merged, function(one, other)
  return one.time < other.time or (one.time == other.time and one.place < other.place)
end)

local marks = {}
local function mark(field, time, other_origin)
  local hidden = string.match(field, '^h:(.*)$')
  if hidden and (times[other_origin][hidden] or 0) > time then return end
  if string.match(field, '^[hp]:') then marks[field] = math.max(marks[field] or 0, time) end
end
local state = redis.call('HGETALL', STATE)
for position = 1, #state, 2 do mark(state[position], tonumber(state[position + 1]) or 0, 'arriving') end
for position = 1, #arriving_marks, 2 do
  mark(arriving_marks[position], tonumber(arriving_marks[position + 1]) or 0, 'own')
end
local fields = {}
for field in pairs(marks) do fields[#fields + 1] = field end
table.sort(fields, function(one, other)
  return marks[one] > marks[other] or (marks[one] == marks[other] and one > other)
end)

redis.call('HSET', MOVES, move, #arriving)
redis.call('DEL', EVENTS, STATE)
count = count + source_count
redis.call('HSET', STATE, 'birth', birth, 'count', count)
for position = 1, math.min(#fields, max_marks) do
  redis.call('HSET', STATE, fields[position], string.format('%.0f', marks[fields[position]]))
end
for position = math.max(1, #merged - max_events + 1), #merged do redis.call('RPUSH', EVENTS, merged[position].event) end
local arrival = tonumber(redis.call('ZRANGE', IDS, -1, -1, 'WITHSCORES')[2]) or 0
for position, event_id in ipairs(arriving_ids) do redis.call('ZADD', IDS, 'NX', arrival + position, event_id) end
redis.call('ZREMRANGEBYRANK', IDS, 0, -max_ids - 1)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return #arriving
