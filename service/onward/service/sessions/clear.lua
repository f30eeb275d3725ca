-- Drop what take.lua put aside once it arrived, unless something else is aside by now.
-- KEYS, in one slot: the events and the state aside. ARGV: the move's name.
if redis.call('HGET', KEYS[2], 'move') == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2]) end
