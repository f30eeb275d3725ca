/** The queue of events in Node, where there is no page and no storage unless it is given. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { OnwardClient, type EventBody } from "../src/index.js";
import { problem, ScriptedServer, stored } from "./server.js";

const HOUR_MS = 3_600_000;

/** The part of the browser's storage that the queue uses. */
class MemoryStorage implements Storage {
  readonly #texts = new Map<string, string>();
  [name: string]: unknown;
  get length(): number {
    return this.#texts.size;
  }
  clear(): void {
    this.#texts.clear();
  }
  key(place: number): string | null {
    return [...this.#texts.keys()][place] ?? null;
  }
  getItem(name: string): string | null {
    return this.#texts.get(name) ?? null;
  }
  setItem(name: string, text: string): void {
    this.#texts.set(name, text);
  }
  removeItem(name: string): void {
    this.#texts.delete(name);
  }
}

function event(item_id: string): EventBody {
  return { session_id: "a", item_id };
}

function itemsOf(bodies: { events: EventBody[] }[]): string[][] {
  return bodies.map((body) => body.events.map((sent) => sent.item_id));
}

test("as many events as make a batch are sent at once, others after the interval", async () => {
  await using server = await ScriptedServer.start(stored);
  const queue = new OnwardClient(server.url).eventQueue({ batchSize: 2, intervalMs: 10 });
  queue.add(event("x"));
  queue.add(event("y"));
  queue.add(event("z"));
  while (queue.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(itemsOf(server.asked).flat(), ["x", "y", "z"]);
  assert.deepEqual(itemsOf(server.asked)[0], ["x", "y"]);
  await queue.close();
});

test("what was not confirmed is sent again, and what was rejected is reported", async () => {
  const lost: string[] = [];
  await using server = await ScriptedServer.start(
    problem(403, "expired_key"),
    (body) => stored(body, { 0: "rejected", 1: "failed" }),
    stored,
  );
  const queue = new OnwardClient(server.url).eventQueue({
    intervalMs: HOUR_MS,
    onLost: (events) => lost.push(...events.map((one) => one.item_id)),
  });
  const ids = ["x", "y", "z"].map((item) => queue.add(event(item)));
  await queue.flush();
  assert.equal(queue.size, 3);
  await queue.flush();
  assert.equal(queue.size, 1);
  await queue.flush();
  assert.equal(queue.size, 0);
  const sent = server.asked.map((body) => body.events.map((one: EventBody) => one.event_id));
  assert.deepEqual(sent, [ids, ids, [ids[1]]]);
  assert.deepEqual(lost, ["x"]);
  await queue.close();
});

test("events that cannot be sent outlast the page, with their time", async () => {
  const storage = new MemoryStorage();
  const options = { intervalMs: HOUR_MS, storage };
  const away = new OnwardClient("http://127.0.0.1:9", { deadlineMs: 20 }).eventQueue(options);
  const id = away.add(event("x"));
  await away.close();
  assert.equal(storage.length, 1);
  const [place] = [storage.key(0)!];
  const kept = JSON.parse(storage.getItem(place)!);
  kept[0].addedAt -= 60_000; // as if the visitor came back a minute later
  storage.setItem(place, JSON.stringify(kept));
  storage.setItem("onward-events:damaged", "{");
  storage.setItem("of-another-program", "[]");

  await using server = await ScriptedServer.start(stored);
  const back = new OnwardClient(server.url).eventQueue(options);
  assert.equal(back.size, 1);
  await back.close();
  assert.equal(server.asked[0].events[0].event_id, id);
  assert.equal(server.asked[0].events[0].timestamp, new Date(kept[0].addedAt).toISOString());
  assert.deepEqual(storage.length, 1);
});

test("a queue is bounded: the oldest events are lost, and reported", async () => {
  const lost: string[] = [];
  await using server = await ScriptedServer.start(stored);
  const queue = new OnwardClient(server.url).eventQueue({
    intervalMs: HOUR_MS,
    maxWaiting: 2,
    onLost: (events, reason) => lost.push(`${events.map((one) => one.item_id)}: ${reason}`),
  });
  for (const item of ["x", "y", "z"]) queue.add(event(item));
  await queue.close();
  assert.deepEqual(lost, ["x: more than 2 wait"]);
  assert.deepEqual(itemsOf(server.asked), [["y", "z"]]);
});
