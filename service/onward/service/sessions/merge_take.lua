-- First step of a merge: put the source session aside, and return what is aside. Events that arrive from now on start
-- the source anew.
-- KEYS, in one hash slot: the source's events, ids and state, as in append.lua; the events and the state put aside.
-- ARGV: time to live in ms, a name for this move, the digest of the target session.
-- If an earlier move is still aside because its merge was interrupted, it is returned first, with its own name and
-- target.
-- Returns the state that is aside (empty if there is nothing to move), the events that are aside, and the event ids,
-- oldest first.
local EVENTS, IDS, STATE, EVENTS_ASIDE, STATE_ASIDE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TYPES = {[EVENTS] = 'list', [IDS] = 'zset', [STATE] = 'hash', [EVENTS_ASIDE] = 'list', [STATE_ASIDE] = 'hash'}

-- Return whether a key holds data of its type; set foreign data aside.
local function holds(key)
  local actual = redis.call('TYPE', key).ok
  local is_foreign = actual ~= 'none' and actual ~= TYPES[key]
  if key == STATE_ASIDE and actual == 'hash' then
    local names = redis.call('HMGET', key, 'move', 'target')
    is_foreign = not names[1] or not names[2]
  end
  if is_foreign then
    redis.call('RENAME', key, key .. '-broken')
    redis.call('PEXPIRE', key .. '-broken', ARGV[1])
  end
  return actual == TYPES[key] and not is_foreign
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
