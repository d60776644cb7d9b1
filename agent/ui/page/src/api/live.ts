/** What the page shows stays true by one WebSocket: it watches paths of the API, and hears when an answer is another one.
 *
 * Laws
 * - What nobody on the page shows is not watched; a page that nobody looks at watches nothing after AWAY_MS.
 * - A break is told, what was seen stays, and the connection comes back by itself, later each time.
 */

import { batch, signal, type Signal } from "@preact/signals";
import { API, Problem, problemOf } from "./http";

export interface Seen<T> {
  body?: T;
  problem?: Problem;
}

export type Connection = "connecting" | "live" | "lost" | "resting";

const AWAY_MS = 60_000;
const SILENT_MS = 35_000;
const LEAST_WAIT_MS = 500;
const MOST_WAIT_MS = 15_000;

interface Watch {
  path: string;
  /** Of each who shows it: the shortest counts. */
  every: number[];
  seen: Signal<Seen<unknown>>;
}

/** The parts of a WebSocket that are used. */
export interface Wire {
  send(text: string): void;
  close(): void;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
}

export class Live {
  readonly connection = signal<Connection>("resting");
  /** When the agent was heard of last, in ms. */
  readonly heard = signal(0);
  private readonly watches = new Map<string, Watch>();
  private wire: Wire | null = null;
  private open = false;
  private failures = 0;
  private again: ReturnType<typeof setTimeout> | undefined;
  private silence: ReturnType<typeof setTimeout> | undefined;
  private away: ReturnType<typeof setTimeout> | undefined;
  private hidden = false;

  constructor(private readonly connect: () => Wire) {}

  /** What the path answers, now and later. Who asked for it gives it back by `drop`, with the same words. */
  watch<T>(path: string, everyS: number): Signal<Seen<T>> {
    let found = this.watches.get(path);
    if (!found) {
      found = { path, every: [], seen: signal<Seen<unknown>>({}) };
      this.watches.set(path, found);
    }
    this.change(found, () => found.every.push(everyS));
    this.begin();
    return found.seen as Signal<Seen<T>>;
  }

  drop(path: string, everyS: number): void {
    const found = this.watches.get(path);
    if (!found) return;
    this.change(found, () => {
      const at = found.every.indexOf(everyS);
      if (at >= 0) found.every.splice(at, 1);
    });
    if (found.every.length > 0) return;
    this.watches.delete(path);
    if (this.open) this.wire?.send(JSON.stringify({ unwatch: path }));
    if (this.watches.size === 0) this.rest();
  }

  /** Whether somebody looks at the page. */
  looking(looks: boolean): void {
    clearTimeout(this.away);
    this.hidden = !looks;
    if (looks) this.begin();
    else this.away = setTimeout(() => this.rest(), AWAY_MS);
  }

  private rest(): void {
    clearTimeout(this.again);
    clearTimeout(this.silence);
    this.again = undefined;
    const wire = this.wire;
    this.wire = null;
    this.open = false;
    if (wire) {
      wire.onclose = null;
      wire.onmessage = null;
      wire.close();
    }
    this.connection.value = "resting";
  }

  private begin(): void {
    if (this.wire || this.again !== undefined || this.watches.size === 0 || this.hidden) return;
    if (this.connection.value !== "lost") this.connection.value = "connecting";
    const wire = this.connect();
    this.wire = wire;
    wire.onopen = () => {
      this.open = true;
      this.connection.value = "live";
      this.hears();
      for (const each of this.watches.values()) this.ask(each);
    };
    wire.onmessage = (event) => {
      this.failures = 0;
      this.hears();
      this.told(String(event.data));
    };
    wire.onclose = () => this.lost();
  }

  /** Asked anew where that changes how often it is wanted. */
  private change(watch: Watch, how: () => void): void {
    const before = Math.min(...watch.every);
    how();
    if (watch.every.length > 0 && Math.min(...watch.every) !== before) this.ask(watch);
  }

  private ask(watch: Watch): void {
    if (this.open) this.wire?.send(JSON.stringify({ watch: watch.path, path: watch.path, every_s: Math.min(...watch.every) }));
  }

  private told(text: string): void {
    let told: Record<string, unknown>;
    try {
      told = JSON.parse(text) as Record<string, unknown>;
    } catch {
      return;
    }
    const found = this.watches.get(String(told["watch"]));
    if (!found) return;
    const status = Number(told["status"] ?? 0);
    batch(() => {
      if (status >= 200 && status < 300) found.seen.value = { body: told["body"] };
      // What was seen stays beside what went wrong: an old picture that says so is better than none.
      else found.seen.value = { ...found.seen.value, problem: problemOf(status, told["body"]) };
    });
  }

  private hears(): void {
    this.heard.value = Date.now();
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      const wire = this.wire;
      if (wire) wire.onclose = null;
      wire?.close();
      this.lost();
    }, SILENT_MS);
  }

  private lost(): void {
    clearTimeout(this.silence);
    this.wire = null;
    this.open = false;
    if (this.watches.size === 0 || this.hidden) {
      this.connection.value = "resting";
      return;
    }
    this.connection.value = "lost";
    const wait = Math.min(MOST_WAIT_MS, LEAST_WAIT_MS * 2 ** this.failures);
    this.failures += 1;
    this.again = setTimeout(() => {
      this.again = undefined;
      this.begin();
    }, wait * (0.75 + Math.random() / 2));
  }
}

function socket(): Wire {
  const url = new URL(`${API}/live`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url) as unknown as Wire;
}

export const live = new Live(socket);
