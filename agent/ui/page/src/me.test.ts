import { signal } from "@preact/signals";
import { afterEach, expect, it, vi } from "vitest";
import type { Connection } from "./api/live";
import { leave, me, meet, meetAgain, meTrouble } from "./me";

const asked: string[] = [];
const MAY = { look: true, read: true, operate: true, tap: true, write: true };

function answers(status: number, body: unknown): void {
  asked.length = 0;
  vi.stubGlobal("fetch", (path: string, init: { method: string }) => {
    asked.push(`${init.method} ${path}`);
    const text = path === "/ui/logout" ? "" : JSON.stringify(body);
    return Promise.resolve({ ok: status < 400, status, text: () => Promise.resolve(text) });
  });
}

afterEach(() => vi.unstubAllGlobals());

it("asks again who one is when the connection was lost, and when it is there again", async () => {
  answers(200, { who: "", login: "/ui/login", may: MAY });
  const connection = signal<Connection>("resting");
  const end = meetAgain(connection);
  expect(asked).toEqual([]);
  connection.value = "live";
  connection.value = "lost";
  await vi.waitFor(() => expect(me.value?.login).toBe("/ui/login"));
  end();
  connection.value = "live";
  expect(asked).toEqual(["GET /api/v1/me", "GET /api/v1/me"]);
});

it("logs out, and then knows who is there", async () => {
  answers(200, { who: "", login: "/ui/login", logout: "", may: MAY });
  await leave("/ui/logout");
  expect(asked).toEqual(["POST /ui/logout", "GET /api/v1/me"]);
  expect(me.value?.logout).toBe("");
});

it("says why nobody was logged out", async () => {
  answers(403, { detail: "no" });
  await leave("/ui/logout");
  expect(asked).toEqual(["POST /ui/logout"]);
  expect(meTrouble.value).not.toBeNull();
});

it("asks again by itself while nobody answers, and while somebody may not write", async () => {
  vi.useFakeTimers();
  answers(502, { detail: "away" });
  await meet();
  await vi.advanceTimersByTimeAsync(3000);
  expect(asked).toHaveLength(2);
  answers(200, { who: "ann", may: { ...MAY, write: false } });
  await vi.advanceTimersByTimeAsync(3000);
  expect(meTrouble.value).toBeNull();
  answers(200, { who: "ann", may: MAY });
  await vi.advanceTimersByTimeAsync(15_000);
  expect(me.value?.may.write).toBe(true);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(asked).toHaveLength(1);
  vi.useRealTimers();
});
