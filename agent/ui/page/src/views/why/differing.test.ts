import { describe, expect, it } from "vitest";
import type { Decision } from "../../api/types";
import { differing, sharesOf } from "./differing";

const one = (phase: string, decision: string, more: Partial<Decision> = {}): Decision => ({ phase, decision, reason: "", policy: "", revision: 1, mode: "enforce", host: "", ...more });
const split = (...percents: number[]) => percents.map((percent, n) => ({ to: `version v${n + 1}`, percent }));
const marked = (mine: Decision[], others: Decision[]) => [...differing(mine, others)];

describe("what is other than before", () => {
  it("is each decision as often as it is", () => {
    expect(marked([one("retry", "2"), one("retry", "2"), one("route", "v1")], [one("retry", "2"), one("route", "v2")])).toEqual([1, 2]);
  });

  it("is a split whose shares are others, whatever was drawn", () => {
    const before = one("route", "forward to pets v1", { policy: "route/pets", shares: split(90, 10) });
    const after = { ...before, revision: 0, shares: split(50, 50) };
    expect(marked([after], [before])).toEqual([0]);
    expect(marked([{ ...before, revision: 0 }], [before])).toEqual([]);
    expect(sharesOf(after, [before])).toEqual([
      { to: "version v1", percent: 50, was: 90 },
      { to: "version v2", percent: 50, was: 10 },
    ]);
    expect(sharesOf({ ...after, shares: [{ to: "version v3", percent: 100 }] }, [before])[0]?.was).toBeNull();
    expect(sharesOf(after)[0]?.was).toBeUndefined();
    expect(sharesOf(one("retry", "2"), [before])).toEqual([]);
  });

  it("is not whose turn it was, nor how that one is reached", () => {
    const before = [one("route", "v1"), one("balance", "endpoint a"), one("hop", "mTLS")];
    const after = [one("route", "v1"), one("balance", "endpoint b"), one("hop", "plain text")];
    expect(marked(after, before)).toEqual([]);
    expect(marked([...after, one("hop", "not sent")], before)).toEqual([]);
  });

  it("is who is picked, where the route or a document of it is another", () => {
    const before = [one("route", "v1"), one("balance", "endpoint a", { policy: "balance/pets" }), one("hop", "mTLS", { policy: "tls/pets" })];
    expect(marked([one("route", "v2"), one("balance", "endpoint b", { policy: "balance/pets" })], before)).toEqual([0, 1]);
    expect(marked([one("route", "v1"), one("balance", "endpoint b", { policy: "balance/pets", revision: 0 })], before)).toEqual([1]);
    expect(marked([one("route", "v1"), before[1]!, one("hop", "plain text", { policy: "tls/pets", revision: 0 })], before)).toEqual([2]);
    expect(marked(before, [one("answer", "answer 503")])).toEqual([0, 1, 2]);
  });
});
