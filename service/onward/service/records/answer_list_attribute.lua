-- Attribute an event to the answer that it names, once for each answer, item and type of event.
-- KEYS[1]: the answers of a session, a list, as answer_add_page.lua describes it. After the JSON of an answer follows a
-- line for each claim that was made: type and item.
-- ARGV: the answer's nonce, the item, the type, the earliest time (in ms) of answers that have not expired.
-- Returns the answer's scenario, bundle and variant ("" for none), or an empty list if the claim is refused.
local NONCE = 16
local entries = redis.call('LRANGE', KEYS[1], 0, -1)
for index = #entries, 1, -1 do
  local entry = entries[index]
  if #entry > 2 * NONCE and string.sub(entry, 1, NONCE) == ARGV[1] then
    local claim = '\n' .. ARGV[3] .. ' ' .. ARGV[2]
    if string.find(entry .. '\n', claim .. '\n', 1, true) then return {} end
    local json_end = (string.find(entry, '\n', 1, true) or #entry + 1) - 1
    local is_json, answer = pcall(cjson.decode, string.sub(entry, 2 * NONCE + 1, json_end))
    if not is_json or answer.made_ms < tonumber(ARGV[4]) then return {} end
    for _, item_id in ipairs(answer.items.item_ids) do
      if item_id == ARGV[2] then
        redis.call('LSET', KEYS[1], index - 1, entry .. claim)
        return {answer.scenario or '', answer.bundle, answer.variant or ''}
      end
    end
    return {}
  end
end
return {}
