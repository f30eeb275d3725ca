/** EventQueue: events that are sent in batches, when the page is hidden too, and kept while the service is away. */

import type { OnwardClient } from "./client.js";
import { NoAnswerError, ProblemError } from "./errors.js";
import { randomId } from "./ids.js";
import type { EventBody, EventsStored } from "./schemas.js";

const STORED = "onward-events:";
/** Bytes of a request that a browser sends for a page that is gone: at most 64 KiB for all such requests. */
const MAX_LAST_BYTES = 60_000;
/** Age from which an event is sent with its time, not as one of now: a visitor's clock may be wrong. */
const LATE_MS = 5_000;
const LONGEST_PAUSE_MS = 60_000;
/** Statuses of refusals that do not lie in the events. */
const MAY_PASS = [401, 403, 429, 500, 502, 503, 504];

export interface QueueOptions {
  /** Events of a request, at most 1,000; as many are sent at once. 20 by default. */
  batchSize?: number;
  /** Milliseconds after which fewer are sent too. 1,000 by default. */
  intervalMs?: number;
  /** Events that wait while they cannot be sent; with more, the oldest are lost. 1,000 by default. */
  maxWaiting?: number;
  /** Where unsent events outlast the page: by default `localStorage` if there is one, null for nowhere. */
  storage?: Storage | null;
  /** Called with events that are lost: rejected by the service, or too many. By default a warning of the console. */
  onLost?: (events: readonly EventBody[], reason: string) => void;
}

interface Waiting {
  event: EventBody & { event_id: string };
  addedAt: number;
}

export class EventQueue {
  readonly #client: OnwardClient;
  readonly #batchSize: number;
  readonly #intervalMs: number;
  readonly #maxWaiting: number;
  readonly #storage: Storage | null;
  readonly #onLost: NonNullable<QueueOptions["onLost"]>;
  readonly #place = STORED + randomId();
  /** Unconfirmed events, oldest first; those that are being sent too. */
  #waiting: Waiting[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending: Promise<void> | undefined;
  #failed = 0;

  constructor(client: OnwardClient, options: QueueOptions) {
    this.#client = client;
    this.#batchSize = options.batchSize ?? 20;
    this.#intervalMs = options.intervalMs ?? 1_000;
    this.#maxWaiting = options.maxWaiting ?? 1_000;
    this.#storage = options.storage === undefined ? browserStorage() : options.storage;
    this.#onLost = options.onLost ?? ((events, reason) => console.warn(`${events.length} events lost: ${reason}`));
    this.#adopt();
    if (typeof document !== "undefined") {
      document.addEventListener("visibilitychange", this.#onVisibility);
      addEventListener("pagehide", this.#onHidden);
      addEventListener("online", this.#onOnline);
    }
  }

  /** How many events have not been confirmed yet. */
  get size(): number {
    return this.#waiting.length;
  }

  /** Let an event wait for the next batch; return its id. */
  add(event: EventBody): string {
    const event_id = event.event_id ?? randomId();
    this.#waiting.push({ event: { ...event, event_id }, addedAt: Date.now() });
    this.#bound();
    if (this.#waiting.length >= this.#batchSize && this.#failed === 0) void this.flush();
    else this.#schedule();
    return event_id;
  }

  /** Send what waits; the promise is resolved when no more can be sent now. */
  flush(): Promise<void> {
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
      if (this.#waiting.length > 0) this.#schedule();
    });
    return this.#sending;
  }

  /** Send what waits, once more, and stop; what cannot be sent stays in the storage for the next queue. */
  async close(): Promise<void> {
    if (typeof document !== "undefined") {
      document.removeEventListener("visibilitychange", this.#onVisibility);
      removeEventListener("pagehide", this.#onHidden);
      removeEventListener("online", this.#onOnline);
    }
    await this.flush();
    clearTimeout(this.#timer);
    this.#save();
  }

  readonly #onVisibility = (): void => {
    if (document.visibilityState === "hidden") this.#onHidden();
  };

  readonly #onOnline = (): void => {
    this.#failed = 0;
    void this.flush();
  };

  /** Send what waits in a way that outlasts the page; while that fails, leave it to the next page. */
  readonly #onHidden = (): void => {
    this.#save();
    if (isOffline() || (this.#failed > 0 && this.#storage !== null)) return;
    const last = fitting(this.#waiting, MAX_LAST_BYTES);
    if (last.length === 0) return;
    if (this.#client.hasKey) {
      // A beacon has no headers, and so no key. The answer comes if the page was only hidden; if it is gone, the next
      // one must not send these again: the session may have ended by then, and with it the memory of their ids.
      this.#client.recordEvents(bodies(last), { keepalive: true }).then(
        (answer) => this.#settle(last, answer),
        () => this.#schedule(),
      );
      this.#save(without(this.#waiting, last));
    } else if (navigator.sendBeacon(this.#client.eventsUrl, JSON.stringify({ events: bodies(last) }))) {
      this.#remove(last);
    }
  };

  async #sendAll(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#waiting.length > 0 && !isOffline()) {
      const batch = this.#waiting.slice(0, this.#batchSize);
      try {
        const answer = await this.#client.recordEvents(bodies(batch));
        this.#settle(batch, answer);
        this.#failed = answer.failed > 0 ? this.#failed + 1 : 0;
      } catch (error) {
        this.#failed += 1;
        if (!(error instanceof NoAnswerError) && !(error instanceof ProblemError && MAY_PASS.includes(error.status))) {
          this.#lose(batch, String(error));
        }
      }
      if (this.#failed > 0) break;
    }
    this.#save();
  }

  #schedule(): void {
    const pauseMs = Math.min(this.#intervalMs * 2 ** this.#failed, Math.max(LONGEST_PAUSE_MS, this.#intervalMs));
    this.#timer ??= setTimeout(() => void this.flush(), pauseMs);
  }

  /** Forget the events that the service has, and those that it will never take. */
  #settle(batch: readonly Waiting[], answer: EventsStored): void {
    const rejected = batch.filter((_, place) => answer.results[place]?.status === "rejected");
    if (rejected.length > 0) this.#onLost(bodies(rejected), "rejected by the service");
    this.#remove(batch.filter((_, place) => answer.results[place]?.status !== "failed"));
  }

  #lose(events: readonly Waiting[], reason: string): void {
    this.#onLost(bodies(events), reason);
    this.#remove(events);
  }

  #remove(events: readonly Waiting[]): void {
    this.#waiting = without(this.#waiting, events);
    this.#save();
  }

  #bound(): void {
    const excess = this.#waiting.length - this.#maxWaiting;
    if (excess > 0) this.#lose(this.#waiting.slice(0, excess), `more than ${this.#maxWaiting} wait`);
  }

  /** Keep events for the next page, under a name of this queue's own. */
  #save(events: readonly Waiting[] = this.#waiting): void {
    try {
      if (events.length > 0) this.#storage?.setItem(this.#place, JSON.stringify(events));
      else this.#storage?.removeItem(this.#place);
    } catch {
      // The storage is full or forbidden: the events live as long as the page.
    }
  }

  /** Take over what earlier pages left. What another open page still sends is sent twice, and applied once. */
  #adopt(): void {
    const storage = this.#storage;
    if (storage === null) return;
    const places = Array.from({ length: storage.length }, (_, number) => storage.key(number) ?? "");
    for (const place of places.filter((name) => name.startsWith(STORED))) {
      try {
        this.#waiting.push(...(JSON.parse(storage.getItem(place) ?? "[]") as Waiting[]));
      } catch {
        // Not ours: left out.
      }
      storage.removeItem(place);
    }
    this.#save();
    this.#bound();
    if (this.#waiting.length > 0) this.#schedule();
  }
}

function without(events: readonly Waiting[], others: readonly Waiting[]): Waiting[] {
  const excluded = new Set(others);
  return events.filter((event) => !excluded.has(event));
}

function bodies(events: readonly Waiting[]): EventBody[] {
  const now = Date.now();
  return events.map(({ event, addedAt }) =>
    event.timestamp || now - addedAt < LATE_MS ? event : { ...event, timestamp: new Date(addedAt).toISOString() },
  );
}

/** Return the oldest events whose JSON has at most so many bytes, or nearly so. */
function fitting(events: readonly Waiting[], maxBytes: number): Waiting[] {
  const encoder = new TextEncoder();
  let bytes = 0;
  const excess = events.findIndex(({ event }) => {
    bytes += encoder.encode(JSON.stringify(event)).length + 50;
    return bytes > maxBytes;
  });
  return events.slice(0, excess === -1 ? 1_000 : Math.min(excess, 1_000));
}

function isOffline(): boolean {
  return typeof navigator !== "undefined" && navigator.onLine === false;
}

function browserStorage(): Storage | null {
  try {
    return typeof document === "undefined" ? null : localStorage;
  } catch {
    return null; // forbidden by the visitor
  }
}
