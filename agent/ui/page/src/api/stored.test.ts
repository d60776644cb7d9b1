import { afterEach, expect, it, vi } from "vitest";
import { remove } from "./stored";

afterEach(() => vi.unstubAllGlobals());

it("removes all the same where that was said", async () => {
  const said: unknown[] = [];
  vi.stubGlobal("fetch", (_: string, init: { body: string }) => {
    said.push(JSON.parse(init.body));
    return Promise.resolve({ ok: true, status: 200, text: () => Promise.resolve('{"revision": 8}') });
  });
  await remove({ kind: "rego", pattern: "a.b", mode: "enforce", reason: "old", replaces: 7, force: true });
  expect(said).toEqual([{ reason: "old", replaces: 7, mode: "enforce", force: true }]);
});
