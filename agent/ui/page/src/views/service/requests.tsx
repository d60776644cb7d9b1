/** Requests of all agents as they end; a click asks why. Asked for only while it is shown. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, Problem, query } from "../../api/http";
import type { Missing, Recorded, Requests } from "../../api/types";
import { clock, plural, seconds } from "../../format";
import { me } from "../../me";
import { Choice, Empty, Field, Mark, Partial, Search, Tick, Trouble } from "../../parts/basics";
import { Table } from "../../parts/table";
import { link, place, say } from "../../router";

const KEPT = 200;
// As long as the API lets somebody wait.
const WAIT_S = 5;
const AGAIN_MS = 3000;

/** Two agents have a part in most requests: the caller's and the instance's. */
const SIDES = [
  ["", "both agents"],
  ["outbound", "the caller's agent"],
  ["inbound", "the instance's agent"],
] as const;

/** As paths are written. */
export const pathOf = (typed: string): string => (typed === "" || typed.startsWith("/") ? typed : `/${typed}`);

/** For whom a copy was made that the mesh sent by itself (`shadow`); nothing: it is somebody's request. */
export function copyFor(verdicts: readonly string[]): string | undefined {
  return verdicts.find((each) => each.startsWith("shadow: a copy, for "))?.slice("shadow: a copy, for ".length);
}

interface Row extends Recorded {
  by: string;
  key: number;
}

export function RequestsTab({ name }: { name: string }) {
  const words = place.value.query;
  const wanted = {
    service: name,
    status: words.get("status") ?? "",
    path: pathOf(words.get("path") ?? ""),
    failed: words.has("failed"),
  };
  const rows = useSignal<Row[]>([]);
  const lost = useSignal(0);
  const missing = useSignal<Record<string, Missing>>({});
  const problem = useSignal<Problem | null>(null);
  const still = useSignal(false);
  const side = useSignal<(typeof SIDES)[number][0]>("");
  const may = me.value?.may.read === true;

  useEffect(() => {
    if (!may || still.value) return undefined;
    const over = new AbortController();
    let key = 0;
    const follow = async (): Promise<void> => {
      // At first those that were recorded lately, where any are; then those that end, from now on.
      let next: string | null = null;
      while (!over.signal.aborted) {
        try {
          const place: Record<string, string | number> = next === null ? { last: 50 } : next === "" ? { wait_s: 0 } : { next, wait_s: WAIT_S };
          const told: Requests = await get<Requests>(query("/requests", { ...wanted, ...place }), over.signal);
          if (next) lost.value += Object.values(told.hosts).reduce((sum, of) => sum + of.lost, 0);
          next = next === null ? "" : told.next;
          problem.value = null;
          missing.value = told.missing;
          const come = Object.entries(told.hosts).flatMap(([by, of]) => of.items.map((each) => ({ ...each, by, key: ++key })));
          if (come.length) rows.value = [...come.sort((a, b) => b.time - a.time), ...rows.value].slice(0, KEPT);
        } catch (error) {
          if (over.signal.aborted) return;
          problem.value = error instanceof Problem ? error : new Problem(0, String(error));
          if (problem.value.status === 403 || problem.value.status === 400) return;
          await new Promise((done) => setTimeout(done, AGAIN_MS));
        }
      }
    };
    rows.value = [];
    lost.value = 0;
    void follow();
    return () => over.abort();
  }, [may, still.value, name, wanted.status, wanted.path, wanted.failed]);

  if (!may) {
    return <Empty>Requests are shown to people whose role allows it, and this page does not know who you are: `shoal dashboard` opens one that does.</Empty>;
  }
  return (
    <>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <Search label="Path begins with" value={words.get("path") ?? ""} say={(path) => say({ path })} />
        <Field label="Status">
          <input value={wanted.status} placeholder="404,5xx" maxLength={50} onChange={(event) => say({ status: event.currentTarget.value })} />
        </Field>
        <Choice label="As seen by" value={side.value} of={SIDES} say={(value) => (side.value = value)} />
        <Tick label="only what failed" on={wanted.failed} say={(on) => say({ failed: on ? "1" : undefined })} />
        <Tick label="hold still" on={still.value} say={(on) => (still.value = on)} />
      </form>
      {problem.value && <Trouble problem={problem.value} />}
      <Partial missing={missing.value} asked={undefined} />
      {lost.value > 0 && <p class="partial">{plural(lost.value, "request")} more, for which there was no room.</p>}
      <Table
        label="Live requests"
        rows={rows.value.filter((row) => !side.value || row.direction === side.value)}
        id={(row) => String(row.key)}
        why="No request that is as the filters say has ended yet: the page waits for the next one."
        columns={[
          { name: "Time", show: (row) => clock(row.time) },
          { name: "Seen by", show: (row) => `${row.by}, ${row.direction === "inbound" ? "which serves it" : "which sends it"}` },
          { name: "Caller", show: (row) => row.caller || "no name" },
          {
            name: "Request",
            show: (row) => (
              <a href={link(["why"], { url: `http://${row.service}${row.target}`, method: row.method, caller: row.caller, go: "1" })}>
                {row.method} {row.target}
              </a>
            ),
          },
          {
            name: "Copy",
            show: (row) => {
              const copy = copyFor(row.verdicts);
              return copy && <Mark health="idle">for {copy}</Mark>;
            },
          },
          { name: "Status", right: true, show: (row) => <Mark health={row.status >= 500 || row.status === 0 ? "bad" : row.status >= 400 ? "warn" : "good"}>{row.status || "gone"}</Mark> },
          { name: "Time taken", right: true, show: (row) => seconds(row.duration_s) },
          { name: "Instance", show: (row) => row.endpoint },
          { name: "What the mesh says", show: (row) => [row.flag, row.why].filter(Boolean).join(": ") },
        ]}
      />
    </>
  );
}
