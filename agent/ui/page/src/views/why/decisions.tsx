/** Decisions about a request, in the order in which it meets them. */

import type { Decision, Explained } from "../../api/types";
import { Mark } from "../../parts/basics";
import { instead } from "../policies";
import { differing, sharesOf } from "./differing";

interface Props {
  told: Explained;
  title: string;
  /** What it is compared with. */
  other?: Explained;
  /** Whether this is what would be: then what was is said of each share. */
  would?: boolean;
}

export function Decisions({ told, title, other, would }: Props) {
  const differs = other ? differing(told.decisions, other.decisions) : new Set<number>();
  return (
    <article class="decisions">
      <h3>{title}</h3>
      <p class="said">
        {told.status !== null ? (
          <Mark health={told.status >= 400 ? "bad" : "warn"}>the mesh itself answers {told.status}</Mark>
        ) : told.endpoint ? (
          <Mark health="good">it goes to {endpointWords(told.endpoint)}</Mark>
        ) : (
          <Mark health="warn">it goes nowhere in this mesh</Mark>
        )}
      </p>
      <ol>
        {told.decisions.map((each, at) => (
          <li key={at} class={`decision${differs.has(at) ? " differs" : ""}${each.mode === "audit" ? " watched" : ""}`}>
            <strong>{each.phase}</strong> {each.decision}
            {differs.has(at) ? <span class="tag">{would ? "other than before" : "would be other"}</span> : null}
            <div class="small">
              {each.policy ? (
                <>
                  <code>
                    {each.policy}
                    {each.revision ? ` @${each.revision}` : ""}
                  </code>
                  {each.revision ? "" : " (proposed)"}
                </>
              ) : (
                "the default"
              )}
              {each.mode === "audit" ? ", only watched" : ""}
              {each.host ? `, said by ${each.host}` : ""}
              {each.reason ? ` · ${each.reason}` : ""}
            </div>
            <Shares of={each} other={would ? other : undefined} />
          </li>
        ))}
      </ol>
      {told.refused.map((each) => (
        <p key={`${each.kind}/${each.pattern}`} class="small">
          <Mark health={each.closed ? "bad" : "warn"}>
            <code>
              {each.watched ? "audits/" : ""}
              {each.kind}/{each.pattern} @{each.revision}
            </code>{" "}
            is refused
          </Mark>{" "}
          <code>{each.path}</code>: {each.reason}. {each.watched ? "" : instead(each)}
        </p>
      ))}
    </article>
  );
}

/** The whole split, whichever of it was drawn. */
function Shares({ of, other }: { of: Decision; other: Explained | undefined }) {
  if (!of.shares?.length) return null;
  return (
    <ul class="shares small" aria-label="The whole split">
      {sharesOf(of, other?.decisions).map(({ to, percent, was }) => (
        <li key={to}>
          {percentWords(percent)} to {to}
          {was === undefined || was === percent ? "" : was === null ? " (nothing before)" : ` (${percentWords(was)} before)`}
        </li>
      ))}
    </ul>
  );
}

const percentWords = (percent: number): string => `${Number(percent.toPrecision(4))}%`;

function endpointWords(endpoint: Record<string, unknown>): string {
  const { service, id, address, port, version } = endpoint;
  const at = address ? ` at ${String(address)}${port ? `:${String(port)}` : ""}` : "";
  return `${[service, id].filter(Boolean).map(String).join("/")}${at}${version ? `, version ${String(version)}` : ""}`;
}
