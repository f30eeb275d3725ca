-- Apply events to a session, each event id once; return the session.
-- KEYS, in one hash slot:
--   1. the events, a list, oldest first
--   2. the ids of events applied before, a sorted set in the order of their arrival
--   3. the state, a hash: birth (the generation), count of applied events, and "p:ITEM" and "h:ITEM" for purchased and
--      hidden items (the marks), each with the time of its event
--   4. the answers, a hash whose field "order" begins with their generation
-- ARGV: the generation of a session that begins, and of answers that begin; the position that the session must have
-- reached (0-0: any); 1 if an answer will be kept, else 0; then for each event its effect (enter, purchase, hide,
-- count), its id or "", its time, type and item.
-- The line before this text defines the constants: MAX_EVENTS, MAX_IDS and MAX_MARKS limit how many of each
-- are kept; TTL_MS and ANSWERS_TTL_MS are the times to live of a session and of its answers.
-- A session that is broken (data of another type under one of its keys, or a state that cannot be read) is set aside:
-- its keys are renamed, with "-broken" at the end, and it is treated as empty.
-- Returns: "1" or "0" for each event, whether it was applied (false, not a text, if the position is not reached); 1 if
-- a broken session was set aside, else 0; generation and count; the marks and the events, each as one text with a line
-- for each, because one value costs less than a list on both sides; the generation of the answers, "" if none is kept.
local EVENTS, IDS, STATE, ANSWERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local new_generation, required, keeps_answer = ARGV[1], ARGV[2], ARGV[3] == '1'
local FIRST, FIELDS = 4, 5
local BROKEN = 'broken'
local set_aside = 0

-- Call a command; raise BROKEN on data of another type under the key, and the error of the command on any other failure.
local function call(command, key, ...)
  local result = redis.pcall(command, key, ...)
  if type(result) == 'table' and result.err then
    error(string.find(result.err, 'WRONGTYPE', 1, true) and BROKEN or result, 0)
  end
  return result
end

-- Return a text of a pattern; raise BROKEN for any other.
local function checked(text, pattern, max_length)
  if #text > max_length or not string.match(text, pattern) then error(BROKEN, 0) end
  return text
end

-- Rename a key that exists; what is set aside expires.
local function put_aside(key)
  if redis.call('EXISTS', key) == 0 then return end
  redis.call('RENAME', key, key .. '-broken')
  if redis.call('PTTL', key .. '-broken') < 0 then redis.call('PEXPIRE', key .. '-broken', TTL_MS) end
end

-- Return the generation of the answers, which begins if there are none. On foreign data or out of memory the answer is
-- not kept, but the call succeeds.
local function answer_generation()
  local order = redis.pcall('HGET', ANSWERS, 'order')
  if type(order) == 'table' then
    put_aside(ANSWERS)
    order = false
  end
  if order == false and redis.pcall('HSET', ANSWERS, 'order', new_generation) == 1 then order = new_generation end
  if type(order) ~= 'string' then return '' end
  redis.call('PEXPIRE', ANSWERS, ANSWERS_TTL_MS)
  return string.sub(order, 1, #new_generation)
end

local function append()
  local generation, count, marks = nil, 0, {}
  local state = call('HGETALL', STATE)
  for index = 1, #state, 2 do
    local field, value = state[index], state[index + 1]
    if field == 'birth' then
      generation = checked(value, '^[0-9a-f]+$', 32)
    elseif field == 'count' then
      count = tonumber(checked(value, '^%d+$', 15))
    elseif string.match(field, '^[hp]:') then
      marks[field] = tonumber(checked(value, '^%-?%d+$', 16))
    end
  end

  -- Refuse if the session has not reached the required position.
  if required ~= '0-0' then
    local required_generation, required_count = string.match(required, '^(.*)%-(%d+)$')
    required_count = tonumber(required_count)
    if required_count ~= 0 and (required_count == nil or required_generation ~= generation or required_count > count) then
      return {false, set_aside, generation or '', count, '', '', ''}
    end
  end

  local outcomes, order, new_entries, changed_marks, applied = {}, nil, {}, {}, 0

  -- Remember an event id, in order of arrival, and return whether it is new.
  local function is_new(event_id)
    if event_id == '' then return true end
    if order == nil then order = tonumber(call('ZRANGE', IDS, -1, -1, 'WITHSCORES')[2]) or 0 end
    order = order + 1
    return call('ZADD', IDS, 'NX', order, event_id) == 1
  end

  local function mark(field, time_ms)
    marks[field], changed_marks[field] = time_ms, true
  end

  for index = FIRST, #ARGV, FIELDS do
    local effect, event_id, time_ms, kind, item = unpack(ARGV, index, index + FIELDS - 1)
    if is_new(event_id) then
      applied = applied + 1
      outcomes[#outcomes + 1] = '1'
      if effect == 'enter' or effect == 'purchase' then
        new_entries[#new_entries + 1] = time_ms .. ' ' .. kind .. ' ' .. item
        if marks['h:' .. item] then mark('h:' .. item, nil) end
      end
      if effect == 'purchase' then mark('p:' .. item, tonumber(time_ms)) end
      if effect == 'hide' then mark('h:' .. item, tonumber(time_ms)) end
    else
      outcomes[#outcomes + 1] = '0'
    end
  end

  local function mark_fields()
    local fields = {}
    for field in pairs(marks) do fields[#fields + 1] = field end
    return fields
  end

  -- Store the changed marks and evict the oldest ones beyond the limit.
  local function store_marks()
    for field in pairs(changed_marks) do
      if marks[field] then
        call('HSET', STATE, field, string.format('%.0f', marks[field]))
      else
        call('HDEL', STATE, field)
      end
    end
    local fields = mark_fields()
    if #fields <= MAX_MARKS then return end
    table.sort(fields, function(a, b)
      return marks[a] < marks[b] or (marks[a] == marks[b] and a < b)
    end)
    for index = 1, #fields - MAX_MARKS do
      call('HDEL', STATE, fields[index])
      marks[fields[index]] = nil
    end
  end

  if applied > 0 then
    generation, count = generation or new_generation, count + applied
    call('HSET', STATE, 'birth', generation, 'count', count)
    if next(changed_marks) then store_marks() end
    if #new_entries > 0 and call('RPUSH', EVENTS, unpack(new_entries)) > MAX_EVENTS then
      call('LTRIM', EVENTS, -MAX_EVENTS, -1)
    end
    if order then call('ZREMRANGEBYRANK', IDS, 0, -MAX_IDS - 1) end
  end
  if #outcomes > 0 then
    for _, key in ipairs({EVENTS, IDS, STATE}) do call('PEXPIRE', key, TTL_MS) end
  end
  local events = table.concat(call('LRANGE', EVENTS, 0, -1), '\n')

  local kept = keeps_answer and answer_generation() or ''
  return {
    table.concat(outcomes), set_aside, generation or '', count, table.concat(mark_fields(), '\n'), events, kept,
  }
end

local succeeded, result = pcall(append)
if not succeeded and result == BROKEN then
  for _, key in ipairs({EVENTS, IDS, STATE}) do put_aside(key) end
  set_aside = 1
  succeeded, result = pcall(append)
end
if not succeeded and type(result) ~= 'table' then return redis.error_reply(tostring(result)) end
return result
