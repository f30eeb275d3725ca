/** The client against the running service at ONWARD_URL. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { OnwardClient, ProblemError, randomId } from "../src/index.js";

const url = process.env["ONWARD_URL"];
const options = { skip: url === undefined && "ONWARD_URL names no running service" };
const client = new OnwardClient(`${url}/`);

test("a visitor views, gets recommendations, pages on and buys", options, async () => {
  const session_id = randomId();
  const answer = await client.recommend({ session_id, items: ["item-1", "item-5"], k: 3, exclude_seen: true });
  assert.equal(answer.items.length, 3);
  const more = await client.nextPage(answer.recommendation_id, { k: 2 });
  const shown = new Set(answer.items.map((item) => item.id));
  assert.ok(more.items.every((item) => !shown.has(item.id)));
  const bought = answer.items[0]!.id;
  const purchase = { session_id, item_id: bought, type: "purchase", recommendation_id: answer.recommendation_id };
  const [first, second] = [await client.recordEvents([purchase]), await client.recordEvents([purchase])];
  assert.equal(first.applied + second.applied, 2, "each call gives the event an id of its own");
  const merged = await client.mergeSession(session_id, `${session_id} of a user`);
  assert.equal(merged.applied, 4);
});

test("an event is applied once", options, async () => {
  const event = { session_id: randomId(), item_id: "item-2", event_id: "e-1" };
  const answer = await client.recordEvents([event, event]);
  assert.deepEqual([answer.applied, answer.duplicates], [1, 1]);
});

test("lists of items", options, async () => {
  const similar = await client.similarItems("item-7", { k: 2, exclude: ["item-8", "item-9"] });
  assert.equal(similar.count, 2);
  assert.equal((await client.popularItems()).count, 20);
  await assert.rejects(client.similarItems("a/b c?ü"), (error) => {
    assert.ok(error instanceof ProblemError);
    return error.code === "item_not_found";
  });
});

test("a queue reaches the service", options, async () => {
  const session_id = randomId();
  const queue = client.eventQueue();
  for (const item_id of ["item-3", "item-4"]) queue.add({ session_id, item_id });
  await queue.close();
  assert.equal(queue.size, 0);
  const answer = await client.recommend({ session_id, k: 60, exclude_seen: true });
  assert.ok(answer.items.every((item) => item.id !== "item-3" && item.id !== "item-4"));
});
