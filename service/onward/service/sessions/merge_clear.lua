-- Last step of a merge: delete what merge_take.lua put aside, unless another move is aside by now.
-- KEYS, in one hash slot: the events and the state put aside. ARGV: the name of the move.
if redis.call('HGET', KEYS[2], 'move') == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2]) end
