-- Put a session aside to be moved into another one, and return what is aside; what comes from now on begins anew.
-- KEYS, in one slot: the session's events, ids and state, as session.lua keeps them; the events and the state aside.
-- ARGV: milliseconds to live, a name for this move, the digest of the session that it goes to.
-- What another call put aside and did not see arrive comes first, under its own name and to its own target.
-- Returns the state aside, an empty one where there was nothing to move; the events aside; the event ids, oldest first.
local EVENTS, IDS, STATE, EVENTS_ASIDE, STATE_ASIDE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TYPES = {[EVENTS] = 'list', [IDS] = 'zset', [STATE] = 'hash', [EVENTS_ASIDE] = 'list', [STATE_ASIDE] = 'hash'}

local function holds(key)
  local found = redis.call('TYPE', key).ok
  if found ~= TYPES[key] then redis.call('DEL', key) end
  return found == TYPES[key]
end

if not holds(STATE_ASIDE) then
  local has_state, has_events = holds(STATE), holds(EVENTS)
  if not has_state and not has_events then return {{}, {}, {}} end
  redis.call('DEL', EVENTS_ASIDE)
  if has_state then redis.call('RENAME', STATE, STATE_ASIDE) end
  if has_events then redis.call('RENAME', EVENTS, EVENTS_ASIDE) end
  redis.call('HSET', STATE_ASIDE, 'move', ARGV[2], 'target', ARGV[3])
  redis.call('PEXPIRE', STATE_ASIDE, ARGV[1])
  redis.call('PEXPIRE', EVENTS_ASIDE, ARGV[1])
end
return {
  redis.call('HGETALL', STATE_ASIDE),
  holds(EVENTS_ASIDE) and redis.call('LRANGE', EVENTS_ASIDE, 0, -1) or {},
  holds(IDS) and redis.call('ZRANGE', IDS, 0, -1) or {},
}
