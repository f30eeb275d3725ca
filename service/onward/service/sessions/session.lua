-- Apply events to a session, each event id once, and return the session; keep a place for the answer to come.
-- KEYS, in one slot: the events, a list, oldest first; the ids of events applied before, a sorted set in the order of
-- their arrival; the state, a hash: birth, count of applied events, "p:ITEM" and "h:ITEM" for purchased and hidden
-- items, each with its time; the answers, a list.
-- ARGV: the birth of a new session, the position that it must have reached (0-0: any), the answer's name or ""; then for
-- each event what it does (enter, purchase, hide, count), its id or "", its time, type and item.
-- The line before this text sets what is the same in every call: MAX_EVENTS, MAX_IDS, MAX_MARKS and MAX_ANSWERS, how many
-- of each are kept, TTL_MS and ANSWERS_TTL_MS, how long a session and its answers live.
-- Returns "1" or "0" for each event, whether it was applied (none at all where the position is not reached); the number
-- of keys that held foreign data, which counts as absent; birth and count; the marks and the events, each in one text,
-- a line for each: one value costs less than a list on both sides.
local EVENTS, IDS, STATE, ANSWERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local new_birth, asked, answer = ARGV[1], ARGV[2], ARGV[3]
local FIRST, FIELDS = 4, 5
local foreign = 0

local function call(command, key, ...)
  local result = redis.pcall(command, key, ...)
  if type(result) == 'table' and result.err then
    if string.find(result.err, 'WRONGTYPE', 1, true) then
      foreign = foreign + 1
      redis.call('DEL', key)
    end
    return redis.call(command, key, ...)
  end
  return result
end

local birth, count, marks = nil, 0, {}
local state = call('HGETALL', STATE)
for place = 1, #state, 2 do
  local field, value = state[place], state[place + 1]
  if field == 'birth' then
    birth = value
  elseif field == 'count' then
    count = tonumber(value) or 0
  else
    marks[field] = tonumber(value) or 0
  end
end

if asked ~= '0-0' then
  local asked_birth, asked_count = string.match(asked, '^(.*)%-(%d+)$')
  asked_count = tonumber(asked_count)
  if asked_count ~= 0 and (asked_count == nil or asked_birth ~= birth or asked_count > count) then
    return {false, foreign, birth or '', count, '', ''}
  end
end

local outcomes, arrival, entered, changed, applied = {}, nil, {}, {}, 0

local function is_new(event_id)
  if event_id == '' then return true end
  if arrival == nil then arrival = tonumber(call('ZRANGE', IDS, -1, -1, 'WITHSCORES')[2]) or 0 end
  arrival = arrival + 1
  return redis.call('ZADD', IDS, 'NX', arrival, event_id) == 1
end

local function mark(field, time_ms)
  marks[field], changed[field] = time_ms, true
end

for place = FIRST, #ARGV, FIELDS do
  local effect, event_id, time_ms, kind, item = unpack(ARGV, place, place + FIELDS - 1)
  if is_new(event_id) then
    applied = applied + 1
    outcomes[#outcomes + 1] = '1'
    if effect == 'enter' or effect == 'purchase' then
      entered[#entered + 1] = time_ms .. ' ' .. kind .. ' ' .. item
      if marks['h:' .. item] then mark('h:' .. item, nil) end
    end
    if effect == 'purchase' then mark('p:' .. item, tonumber(time_ms)) end
    if effect == 'hide' then mark('h:' .. item, tonumber(time_ms)) end
  else
    outcomes[#outcomes + 1] = '0'
  end
end

local function marked_items()
  local fields = {}
  for field in pairs(marks) do fields[#fields + 1] = field end
  return fields
end

local function store_marks()
  for field in pairs(changed) do
    if marks[field] then
      redis.call('HSET', STATE, field, string.format('%.0f', marks[field]))
    else
      redis.call('HDEL', STATE, field)
    end
  end
  local fields = marked_items()
  if #fields <= MAX_MARKS then return end
  table.sort(fields, function(one, other)
    return marks[one] < marks[other] or (marks[one] == marks[other] and one < other)
  end)
  for place = 1, #fields - MAX_MARKS do
    redis.call('HDEL', STATE, fields[place])
    marks[fields[place]] = nil
  end
end

if applied > 0 then
  birth, count = birth or new_birth, count + applied
  redis.call('HSET', STATE, 'birth', birth, 'count', count)
  if next(changed) then store_marks() end
  if #entered > 0 and call('RPUSH', EVENTS, unpack(entered)) > MAX_EVENTS then
    redis.call('LTRIM', EVENTS, -MAX_EVENTS, -1)
  end
  if arrival then redis.call('ZREMRANGEBYRANK', IDS, 0, -MAX_IDS - 1) end
end
if #outcomes > 0 then
  for _, key in ipairs({EVENTS, IDS, STATE}) do redis.call('PEXPIRE', key, TTL_MS) end
end
local events = table.concat(call('LRANGE', EVENTS, 0, -1), '\n')

if answer ~= '' then
  local length = redis.pcall('RPUSH', ANSWERS, answer)
  if type(length) ~= 'number' then
    redis.call('DEL', ANSWERS)  -- foreign data, or no memory left: that the answer is not kept fails nothing else
  else
    if length > MAX_ANSWERS then redis.call('LTRIM', ANSWERS, -MAX_ANSWERS, -1) end
    redis.call('PEXPIRE', ANSWERS, ANSWERS_TTL_MS)
  end
end
return {table.concat(outcomes), foreign, birth or '', count, table.concat(marked_items(), '\n'), events}
