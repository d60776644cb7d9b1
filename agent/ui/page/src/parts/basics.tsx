/** Small things that every view is made of. */

import type { ComponentChildren } from "preact";
import type { Missing } from "../api/types";
import type { Problem } from "../api/http";
import { plural } from "../format";
import { GLYPH } from "../graph/picture";
import type { Health } from "../graph/model";

/** Says why there is nothing. */
export function Empty({ children }: { children: ComponentChildren }) {
  return <p class="empty">{children}</p>;
}

/** Of what was asked for: nothing yet, what went wrong, or nothing. */
export function Waiting({ problem, what }: { problem: Problem | undefined; what: string }) {
  if (problem) return <Trouble problem={problem} />;
  return (
    <p class="waiting" role="status">
      Asking for {what} …
    </p>
  );
}

export function Trouble({ problem }: { problem: Problem }) {
  return (
    <p class="trouble" role="alert">
      <span aria-hidden="true">{GLYPH.bad}</span> {problem.words}
    </p>
  );
}

/** Whose part is not in what is shown. */
export function Partial({ missing, asked }: { missing: Record<string, Missing> | undefined; asked: number | undefined }) {
  const hosts = Object.entries(missing ?? {});
  if (hosts.length === 0) return null;
  const shown = hosts.slice(0, 5).map(([host, no]) => `${host}: ${no.reason || no.why}`);
  return (
    <p class="partial" role="status">
      <span aria-hidden="true">{GLYPH.warn}</span> Without {plural(hosts.length, "agent")} of {asked ?? "all"}: {shown.join("; ")}
      {hosts.length > shown.length ? `; and ${hosts.length - shown.length} more` : ""}
    </p>
  );
}

export function Mark({ health, children }: { health: Health; children: ComponentChildren }) {
  return (
    <span class={`mark ${health}`}>
      <span aria-hidden="true">{GLYPH[health]}</span> {children}
    </span>
  );
}

export function Field({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <label class="field">
      <span>{label}</span>
      {children}
    </label>
  );
}

export function Search({ value, say, label }: { value: string; say: (text: string) => void; label: string }) {
  return (
    <Field label={label}>
      <input type="search" value={value} maxLength={253} spellcheck={false} autocomplete="off" onInput={(event) => say(event.currentTarget.value)} />
    </Field>
  );
}

export function Choice<T extends string>(props: { label: string; value: T; of: readonly (readonly [T, string])[]; say: (value: T) => void }) {
  return (
    <Field label={props.label}>
      <select value={props.value} onChange={(event) => props.say(event.currentTarget.value as T)}>
        {props.of.map(([value, words]) => (
          <option key={value} value={value} selected={value === props.value}>
            {words}
          </option>
        ))}
      </select>
    </Field>
  );
}

export function Tick({ label, on, say }: { label: string; on: boolean; say: (on: boolean) => void }) {
  return (
    <label class="tick">
      <input type="checkbox" checked={on} onChange={(event) => say(event.currentTarget.checked)} /> {label}
    </label>
  );
}

/** JSON, as it is read. */
export function Json({ value }: { value: unknown }) {
  return (
    <pre class="json" tabIndex={0}>
      {JSON.stringify(value, null, 2)}
    </pre>
  );
}
