import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Live, type Wire } from "./live";

class FakeWire implements Wire {
  sent: Record<string, unknown>[] = [];
  closed = false;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }
  close(): void {
    this.closed = true;
  }
  tell(what: unknown): void {
    this.onmessage?.({ data: JSON.stringify(what) });
  }
}

let wires: FakeWire[];
const last = (): FakeWire => wires[wires.length - 1] as FakeWire;
const begun = (): Live =>
  new Live(() => {
    wires.push(new FakeWire());
    return last();
  });

beforeEach(() => {
  wires = [];
  vi.useFakeTimers();
});
afterEach(() => vi.useRealTimers());

it("watches once what two parts show, and stops with the last of them", () => {
  const live = begun();
  const one = live.watch("/mesh", 2);
  const other = live.watch("/mesh", 2);
  expect(one).toBe(other);
  last().onopen?.();
  expect(last().sent).toEqual([{ watch: "/mesh", path: "/mesh", every_s: 2 }]);
  last().tell({ watch: "/mesh", status: 200, body: { name: "m" } });
  expect(one.value).toEqual({ body: { name: "m" } });
  live.drop("/mesh", 2);
  expect(last().closed).toBe(false);
  live.drop("/mesh", 2);
  expect(last().closed).toBe(true);
  expect(live.connection.value).toBe("resting");
});

it("asks as often as the most eager of those who show it", () => {
  const live = begun();
  live.watch("/alerts", 30);
  last().onopen?.();
  live.watch("/alerts", 5);
  live.watch("/alerts", 10);
  live.drop("/alerts", 5);
  live.drop("/alerts", 10);
  live.drop("/alerts", 30);
  expect(last().sent.map((each) => each["every_s"] ?? "unwatch")).toEqual([30, 5, 10, 30, "unwatch"]);
});

it("keeps what was seen beside what went wrong", () => {
  const live = begun();
  const seen = live.watch<string>("/x", 2);
  last().onopen?.();
  last().tell({ watch: "/x", status: 200, body: "old" });
  last().tell({ watch: "/x", status: 503, body: { detail: "away" } });
  expect(seen.value.body).toBe("old");
  expect(seen.value.problem?.words).toBe("away");
  last().tell({ watch: "/x", status: 200, body: "new" });
  expect(seen.value).toEqual({ body: "new" });
});

it("comes back after a break, later each time, and asks for all of it again", () => {
  const live = begun();
  live.watch("/x", 2);
  last().onopen?.();
  last().onclose?.({ code: 1006, reason: "" });
  expect(live.connection.value).toBe("lost");
  vi.advanceTimersByTime(700);
  expect(wires).toHaveLength(2);
  last().onclose?.({ code: 1006, reason: "" });
  vi.advanceTimersByTime(700);
  expect(wires).toHaveLength(2);
  vi.advanceTimersByTime(600);
  expect(wires).toHaveLength(3);
  last().onopen?.();
  expect(last().sent).toHaveLength(1);
  expect(live.connection.value).toBe("live");
});

it("takes an agent that says nothing for lost", () => {
  const live = begun();
  live.watch("/x", 2);
  last().onopen?.();
  vi.advanceTimersByTime(36_000);
  expect(live.connection.value).toBe("lost");
});

it("rests while nobody looks, and goes on when somebody does", () => {
  const live = begun();
  live.watch("/x", 2);
  last().onopen?.();
  live.looking(false);
  vi.advanceTimersByTime(30_000);
  last().tell({ now: 1 });
  expect(live.connection.value).toBe("live");
  vi.advanceTimersByTime(31_000);
  expect(live.connection.value).toBe("resting");
  live.looking(true);
  expect(wires).toHaveLength(2);
});

it("passes over what it does not understand", () => {
  const live = begun();
  const seen = live.watch("/x", 2);
  last().onopen?.();
  last().onmessage?.({ data: "{" });
  last().tell({ watch: "/other", status: 200, body: 1 });
  expect(seen.value).toEqual({});
});
