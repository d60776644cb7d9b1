/** A table that is sorted by a click on its head, cut at MOST rows, and scrolls by itself where it is too wide. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { Empty } from "./basics";

const MOST = 200;

export interface Column<T> {
  name: string;
  show: (row: T) => ComponentChildren;
  /** What it is sorted by; without it, it is not. */
  by?: (row: T) => string | number;
  right?: boolean;
}

export function Table<T>(props: {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  id: (row: T) => string;
  why: ComponentChildren;
  sorted?: { name: string; down: boolean };
}) {
  const order = useSignal(props.sorted ?? null);
  const most = useSignal(MOST);
  const column = props.columns.find((each) => each.name === order.value?.name);
  const rows = [...props.rows];
  const by = column?.by;
  if (by) {
    const sign = order.value?.down ? -1 : 1;
    rows.sort((a, b) => sign * compared(by(a), by(b)));
  }
  if (rows.length === 0) return <Empty>{props.why}</Empty>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.label}>
      <table>
        <caption class="unseen">{props.label}</caption>
        <thead>
          <tr>
            {props.columns.map((each) => {
              const here = order.value?.name === each.name;
              const sort = here ? (order.value?.down ? "descending" : "ascending") : "none";
              return (
                <th key={each.name} scope="col" class={each.right ? "right" : ""} aria-sort={each.by ? sort : undefined}>
                  {each.by ? (
                    <button type="button" class="plain" onClick={() => (order.value = { name: each.name, down: here ? !order.value?.down : true })}>
                      {each.name}
                      <span aria-hidden="true">{here ? (order.value?.down ? " ↓" : " ↑") : ""}</span>
                    </button>
                  ) : (
                    each.name
                  )}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>
          {rows.slice(0, most.value).map((row) => (
            <tr key={props.id(row)}>
              {props.columns.map((each) => (
                <td key={each.name} class={each.right ? "right" : ""}>
                  {each.show(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length > most.value && (
        <p class="more">
          {most.value} of {rows.length}; narrow it by a filter, or{" "}
          <button type="button" onClick={() => (most.value += 1000)}>
            show more
          </button>
        </p>
      )}
    </div>
  );
}

function compared(a: string | number, b: string | number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
